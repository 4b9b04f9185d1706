"""The calls of the contract, as plain values: what to send, and how to read the answer.

Every function here builds a `Call` and sends nothing. `Client` and `AsyncClient` offer the same
functions as methods that send it; `batch` takes the calls themselves.

Keys: whatever sets something aside, takes or gives credits, and whatever may rightly be done
twice to one hold (a partial commit, an increase) needs an Idempotency-Key, and one is made here
when none is given. A final commit, a release and a heartbeat need none: repeated, they answer
what the first one did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict, Unpack

from holdfast.client.call import (
    Call,
    Durability,
    OnShortfall,
    account_path,
    checked_id,
    get,
    given,
    hold_path,
    keyed,
    new_key,
    of_hold,
    page_of,
    query_of,
)
from holdfast.client.results import Account, Entry, Hold, Member, Page, Posting
from holdfast.client.statistics import forecast, usage

__all__ = [
    "AccountSettings",
    "GrantSource",
    "MemberSettings",
    "accounts",
    "adjust",
    "charge",
    "close_account",
    "commit",
    "entries",
    "extend",
    "forecast",
    "get_account",
    "get_hold",
    "get_member",
    "grant",
    "holds",
    "put_account",
    "put_member",
    "refund",
    "release",
    "reserve",
    "usage",
]

Metadata = Mapping[str, Any]
GrantSource = Literal["purchase", "allowance", "promo", "adjustment"]


class AccountSettings(TypedDict, total=False):
    """Settings of an account; limits in microcredits, None takes a limit away."""

    overdraft_limit: int
    daily_limit: int | None
    monthly_limit: int | None
    max_hold: int | None
    max_open_holds: int | None
    low_balance: int | None
    plan: str | None
    models: Sequence[str] | None
    status: str
    metadata: Metadata | None
    reason: str


class MemberSettings(TypedDict, total=False):
    """Limits of a member in microcredits; None does not bind."""

    daily_limit: int | None
    monthly_limit: int | None
    max_hold: int | None


def put_account(
    account: str,
    *,
    durability: Durability | None = None,
    **settings: Unpack[AccountSettings],
) -> Call[Account]:
    """Open the account, or change the settings given and keep the others."""
    return Call(
        op="put_account",
        method="PUT",
        path=account_path(account),
        account=account,
        body=settings,
        durability=durability,
        read=Account.read,
    )


def close_account(
    account: str,
    *,
    write_off: bool = False,
    reason: str | None = None,
    durability: Durability | None = None,
) -> Call[Account]:
    """Close the account for good; one that is closed already is answered as it is.

    `write_off` brings what is left, credits or debt, to zero first; it needs a `reason`. Raises
    AccountNotFound, AccountNotEmpty.
    """
    return Call(
        op="close_account",
        method="POST",
        path=f"{account_path(account)}/close",
        account=account,
        body=given(write_off=write_off or None, reason=reason),
        durability=durability,
        read=Account.read,
    )


def get_account(account: str) -> Call[Account]:
    """Balances and settings of the account."""
    return get("get_account", account_path(account), Account.read)


def accounts(
    *, prefix: str | None = None, after: str | None = None, limit: int | None = None
) -> Call[Page[Account]]:
    """A page of the accounts whose id begins with `prefix`, at most `limit` (1 to 1,000)."""
    query = query_of(prefix=prefix, after=after, limit=limit)
    return get("accounts", "/v1/accounts", page_of(Account), query)


def put_member(
    account: str,
    member: str,
    *,
    durability: Durability | None = None,
    **settings: Unpack[MemberSettings],
) -> Call[Member]:
    """Set all limits of a member: one that is not given, or is None, does not bind."""
    return Call(
        op="put_member",
        method="PUT",
        path=f"{account_path(account)}/members/{checked_id('member', member)}",
        account=account,
        body=settings,
        durability=durability,
        read=Member.read,
    )


def get_member(account: str, member: str) -> Call[Member]:
    """Limits and usage of a member."""
    path = f"{account_path(account)}/members/{checked_id('member', member)}"
    return get("get_member", path, Member.read)


def _usage(usage: Mapping[str, Any] | None, model: str | None) -> Mapping[str, Any] | None:
    return usage if model is None else {**(usage or {}), "model": model}


def reserve(
    account: str,
    amount: int | None = None,
    *,
    min_amount: int | None = None,
    ttl_seconds: int | None = None,
    member: str | None = None,
    description: str | None = None,
    metadata: Metadata | None = None,
    model: str | None = None,
    usage: Mapping[str, Any] | None = None,
    quote_id: str | None = None,
    key: str | None = None,
    durability: Durability | None = None,
) -> Call[Hold]:
    """Set `amount` microcredits aside for `ttl_seconds` (1 to 86,400; the service's default 900).

    With `min_amount`, less will do: what is available is taken if it is at least that. `model`
    (the same as `usage={"model": ...}`) is what usage is added up by. Raises InsufficientCredits,
    LimitExceeded, AccountNotFound, AccountFrozen, AccountClosed, IdempotencyKeyReused.
    """
    body = given(
        amount=amount,
        min_amount=min_amount,
        ttl_seconds=ttl_seconds,
        member=member,
        description=description,
        metadata=metadata,
        usage=_usage(usage, model),
        quote_id=quote_id,
    )
    return keyed("reserve", account, "holds", body, key=key, durability=durability, read=Hold.read)


def get_hold(account: str, hold: str) -> Call[Hold]:
    """The hold as it stands."""
    return get("get_hold", hold_path(account, hold), Hold.read)


def holds(
    account: str,
    *,
    state: str | None = None,
    after: str | None = None,
    limit: int | None = None,
) -> Call[Page[Hold]]:
    """A page of the account's holds, of one `state` if that is given."""
    query = query_of(state=state, after=after, limit=limit)
    return get("holds", f"{account_path(account)}/holds", page_of(Hold), query)


def commit(
    account: str,
    hold: str,
    amount: int | None = None,
    *,
    on_shortfall: OnShortfall | None = None,
    final: bool = True,
    usage: Mapping[str, Any] | None = None,
    description: str | None = None,
    metadata: Metadata | None = None,
    key: str | None = None,
    durability: Durability | None = None,
) -> Call[Hold]:
    """Take `amount` microcredits of the hold (default: all of it) and give the rest back.

    More than the hold is taken from what is available; where that is not enough, `on_shortfall`
    says: `reject` (the default: CommitExceedsFunds, hold unchanged), `cap` (what there is) or
    `debt`. `final=False` keeps the rest held, for streams. Raises HoldNotFound, HoldCommitted,
    HoldReleased, CommitExceedsFunds.
    """
    body = given(
        amount=amount,
        on_shortfall=on_shortfall,
        final=None if final else False,
        usage=usage,
        description=description,
        metadata=metadata,
    )
    if not final:
        key = key or new_key()
    return of_hold("commit", account, hold, body, key=key, durability=durability)


def release(
    account: str,
    hold: str,
    *,
    reason: str | None = None,
    description: str | None = None,
    metadata: Metadata | None = None,
    key: str | None = None,
    durability: Durability | None = None,
) -> Call[Hold]:
    """Give back what is left of the hold. Raises HoldNotFound, HoldCommitted."""
    body = given(reason=reason, description=description, metadata=metadata)
    return of_hold("release", account, hold, body, key=key, durability=durability)


def extend(
    account: str,
    hold: str,
    *,
    ttl_seconds: int | None = None,
    add_amount: int | None = None,
    description: str | None = None,
    metadata: Metadata | None = None,
    key: str | None = None,
    durability: Durability | None = None,
) -> Call[Hold]:
    """Move the deadline to now + `ttl_seconds`, if that is later, and add `add_amount` to the hold.

    Raises HoldExpired, HoldCommitted, HoldReleased; with `add_amount` InsufficientCredits and
    LimitExceeded, which leave the hold as it was.
    """
    body = given(
        ttl_seconds=ttl_seconds,
        add_amount=add_amount,
        description=description,
        metadata=metadata,
    )
    if add_amount is not None:
        key = key or new_key()
    return of_hold("extend", account, hold, body, key=key, durability=durability)


def charge(
    account: str,
    amount: int | None = None,
    *,
    on_shortfall: OnShortfall | None = None,
    member: str | None = None,
    model: str | None = None,
    usage: Mapping[str, Any] | None = None,
    quote_id: str | None = None,
    description: str | None = None,
    metadata: Metadata | None = None,
    key: str | None = None,
    durability: Durability | None = None,
) -> Call[Posting]:
    """Take `amount` microcredits at once, for work already done or priced.

    Raises InsufficientCredits, LimitExceeded, AccountFrozen, AccountClosed.
    """
    body = given(
        amount=amount,
        on_shortfall=on_shortfall,
        member=member,
        usage=_usage(usage, model),
        quote_id=quote_id,
        description=description,
        metadata=metadata,
    )
    return keyed(
        "charge", account, "charges", body, key=key, durability=durability, read=Posting.read
    )


def refund(
    account: str,
    of: str,
    amount: int | None = None,
    *,
    reason: str | None = None,
    description: str | None = None,
    metadata: Metadata | None = None,
    key: str | None = None,
    durability: Durability | None = None,
) -> Call[Posting]:
    """Give back `amount` microcredits (default: all) of what the hold or charge `of` took.

    Raises HoldOpen, HoldNotFound, RefundExceeds.
    """
    body = given(
        of=checked_id("of", of),
        amount=amount,
        reason=reason,
        description=description,
        metadata=metadata,
    )
    return keyed(
        "refund", account, "refunds", body, key=key, durability=durability, read=Posting.read
    )


def adjust(
    account: str,
    amount: int,
    *,
    reason: str,
    description: str | None = None,
    metadata: Metadata | None = None,
    key: str | None = None,
    durability: Durability | None = None,
) -> Call[Posting]:
    """Correct the balance by hand by `amount` microcredits, negative to take; says why.

    Raises InsufficientCredits (nothing is taken below zero), AccountNotFound, AccountClosed.
    """
    body = given(amount=amount, reason=reason, description=description, metadata=metadata)
    return keyed(
        "adjust", account, "adjustments", body, key=key, durability=durability, read=Posting.read
    )


def grant(
    account: str,
    amount: int,
    *,
    source: GrantSource | None = None,
    priority: int | None = None,
    expires_at: datetime | None = None,
    payment: Mapping[str, str] | None = None,
    description: str | None = None,
    metadata: Metadata | None = None,
    key: str | None = None,
    durability: Durability | None = None,
) -> Call[Posting]:
    """Put `amount` microcredits into the account, until `expires_at` if that is given.

    Of grants that expire together, the lower `priority` is spent first. A purchase names its
    `payment` (`provider` and `id`), which is what makes it happen once. Raises AmountLimit,
    PaymentDuplicate, AccountNotFound; ValueError for a naive `expires_at`.
    """
    if expires_at is not None and expires_at.tzinfo is None:
        raise ValueError("expires_at has no time zone: give an aware datetime")
    body = given(
        amount=amount,
        source=source,
        priority=priority,
        expires_at=None if expires_at is None else expires_at.isoformat(),
        payment=payment,
        description=description,
        metadata=metadata,
    )
    return keyed(
        "grant", account, "grants", body, key=key, durability=durability, read=Posting.read
    )


def entries(
    account: str, *, after: str | None = None, limit: int | None = None
) -> Call[Page[Entry]]:
    """A page of the account's journal, oldest first, at most `limit` (100; 1 to 1,000)."""
    query = query_of(after=after, limit=limit)
    return get("entries", f"{account_path(account)}/entries", page_of(Entry), query)
