"""The calls about what is owed; they need an admin's API key that is for all accounts."""

from __future__ import annotations

from holdfast.client.call import Call, checked_id, get, given, new_key, page_of, query_of
from holdfast.client.results import Debt, Page, Posting, Uncollected

__all__ = ["collect", "debts", "uncollected"]


def debts(
    *, account: str | None = None, after: str | None = None, limit: int | None = None
) -> Call[Page[Debt]]:
    """A page of the accounts in debt, by id; of one `account` if that is given."""
    query = query_of(account=account, after=after, limit=limit)
    return get("debts", "/v1/admin/debts", page_of(Debt), query)


def uncollected(
    *, account: str | None = None, after: str | None = None, limit: int | None = None
) -> Call[Page[Uncollected]]:
    """A page of what was done and not paid; of one `account` if that is given."""
    query = query_of(account=account, after=after, limit=limit)
    return get("uncollected", "/v1/admin/debts/uncollected", page_of(Uncollected), query)


def collect(
    account: str, of: str, amount: int | None = None, *, key: str | None = None
) -> Call[Posting]:
    """Charge `amount` microcredits (default: all that is left) of what `of` could not take.

    Never more than that is taken, over all calls. Raises NotFound, InvalidRequest,
    InsufficientCredits, IdempotencyKeyReused where another amount is on its way.
    """
    return Call(
        op="collect",
        method="POST",
        path="/v1/admin/debts/collect",
        account=checked_id("account", account),
        body={"account": account, **given(of=checked_id("of", of), amount=amount)},
        key=checked_id("key", key) if key is not None else new_key(),
        read=Posting.read,
    )
