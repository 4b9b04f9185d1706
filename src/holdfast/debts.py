"""What is owed: accounts in debt, and work that was done and not paid.

A debt (`on_shortfall: debt`) is paid by whatever comes into the account. What a capped commit or
charge could not take (`uncollected`) is only written down; `collect` takes it later, by charges:

    the record says what is left ─▶ charge under the key of the next part ─▶ wait until it settled

The key derives from the record and the number of the part, and the next part begins only when the
journal has this one. So whatever fails, and however many call at once, a part is taken once, and
all parts together are never more than what was uncollected. No table is needed: the records of the
charges tell what was collected.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from holdfast import audit
from holdfast.audit import Caller
from holdfast.errors import InvalidRequest, KeyReused, NotFound
from holdfast.keys import is_id
from holdfast.ledger import Ledger
from holdfast.lists import Page
from holdfast.model import Context, Movement
from holdfast.postgres import Pool
from holdfast.queries import sql

# A row of a list looks at as many keys: 100 rows are 2,000 probes of an index, some 10 ms.
MAX_PARTS: Final = 20


@dataclass(frozen=True, slots=True)
class Debt:
    """An account that owes. Amounts in microcredits."""

    account: str
    status: str
    debt: int
    available: int
    held: int


@dataclass(frozen=True, slots=True)
class Uncollected:
    """A hold or charge (`of`) that took less than its work cost, and what was collected since."""

    account: str
    of: str
    kind: str
    member: str | None
    uncollected: int
    collected: int
    at_ms: int


async def debts(pool: Pool, *, account: str | None, after: str | None, limit: int) -> Page[Debt]:
    """Accounts in debt, by id. Raises InvalidRequest for a cursor that is none."""
    if after is not None and not is_id(after):
        raise _bad_cursor()
    rows = await pool.fetch(sql("list_debts"), account, after or "", limit + 1)
    data = [Debt(**row) for row in rows[:limit]]
    return Page(data, data[-1].account if len(rows) > limit else None)


async def uncollected(
    pool: Pool, *, account: str | None, after: str | None, limit: int
) -> Page[Uncollected]:
    """What is left of uncollected amounts, by account and key. Raises as `debts` does."""
    last: tuple[str, str, int] = ("", "", 0)
    if after is not None:
        parts = after.split("~")  # which no id contains
        if len(parts) != 3 or not parts[2].isdecimal() or len(parts[2]) > 18:
            raise _bad_cursor()
        last = parts[0], parts[1], int(parts[2])
    rows = await pool.fetch(sql("list_uncollected"), account, *last, limit + 1, MAX_PARTS)
    data = [
        Uncollected(
            *(row["account"], row["key"], row["kind"], row["member"]),
            *(row["uncollected"], row["collected"], row["at_ms"]),
        )
        for row in rows[:limit]
    ]
    end = rows[limit - 1] if len(rows) > limit else None
    return Page(data, None if end is None else f"{end['account']}~{end['key']}~{end['opened']}")


async def collect(
    ledger: Ledger,
    account: str,
    of: str,
    amount: int | None,
    *,
    key: str | None,
    by: Caller,
    context: Context,
) -> Movement:
    """Charge `amount` (default: all that is left) of what hold or charge `of` could not take.

    A call that brings a `key` can be repeated: it collects once, and is answered alike for as long
    as keys are kept. Raises NotFound, InvalidRequest for more than is left, KeyReused where another
    call collects another amount, and what a charge raises: InsufficientCredits, LimitExceeded,
    Unavailable.
    """
    async with ledger.pool.acquire() as conn, conn.transaction():
        window_ms = ledger.window_ms
        row = await conn.fetchrow(sql("find_uncollected"), account, of, MAX_PARTS, key, window_ms)
        if row is None:
            raise NotFound(f"nothing of {of!r} of account {account!r} is uncollected")
        part, wanted = _part(row, amount)
        part_key = _key(of, row["opened"], part)
        # First: a charge that nobody can find out about does not happen. The journal has what it
        # took, under this key.
        if row["again"] is None:
            await audit.record_as(
                by,
                conn,
                action="debt.collect",
                subject=f"account:{account}",
                account=account,
                after={"of": of, "amount": wanted, "key": part_key},
            )
    try:
        return await ledger.charge(
            account,
            part_key,
            amount=wanted,
            metadata={"collects": of} | ({} if key is None else {"call": key}),
            context=context,
            durability="settled",
        )
    except KeyReused as error:
        raise KeyReused(f"another amount of {of!r} is being collected: look again") from error


def _part(row: Any, amount: int | None) -> tuple[int, int]:
    """The number of the part that is to be charged, and its amount. Raises InvalidRequest."""
    if row["again"] is not None:
        if not row["again_recent"]:
            raise InvalidRequest.of_field("of", "was collected by this call, too long ago to tell")
        return row["again"], row["again_amount"] if amount is None else amount
    left = row["uncollected"] - row["collected"]
    wanted = left if amount is None else amount
    if left <= 0 or wanted > left:
        raise InvalidRequest.of_field("amount", f"at most {max(left, 0)} is left to collect")
    if row["parts"] >= MAX_PARTS:
        raise InvalidRequest.of_field("of", f"was collected in {MAX_PARTS} parts, and no more")
    return row["parts"] + 1, wanted


def _key(of: str, opened: int, part: int) -> str:
    """The key of a part, as list_uncollected.sql makes it."""
    return "collect:" + sha256(f"{of}:{opened}:{part}".encode()).hexdigest()[:40]


def _bad_cursor() -> InvalidRequest:
    return InvalidRequest.of_field("after", "must be `next` of the page before")
