"""Compensations: credits owed for work that failed after it was charged. What is owed, and why.

    add ──▶ pending ──▶ applied
               │ ▲
               ▼ │ retry
             failed

A compensation is a row in Postgres before anything is given, one for each origin of an account: to
add the same one again answers the row that is there. `compensator.py` gives the credits. One that
has failed stays until somebody looks: doctor and the metrics show it, `retry` tries it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from holdfast import audit
from holdfast.arguments import check
from holdfast.audit import Caller
from holdfast.errors import InvalidRequest, KeyReused, NotFound
from holdfast.lists import Page
from holdfast.postgres import Pool
from holdfast.queries import sql
from holdfast.telemetry import Reading

State = Literal["pending", "applied", "failed"]

# `compensation:<origin>` is an idempotency key, which has 128 characters at most.
ORIGIN_MAX: Final = 115
REASON_MAX: Final = 1024
# What makes two requests of one origin the same, in the order in which a difference is named.
_CONTENT: Final = ("of", "amount", "reason")


@dataclass(frozen=True, slots=True)
class Compensation:
    """One row. `amount` is in microcredits; `of` None: a grant, else the hold or charge to refund.

    `key` is the idempotency key of its effect; `error` what the last try met.
    """

    id: int
    account: str
    origin: str
    key: str
    of: str | None
    amount: int
    reason: str
    actor: str
    state: State
    attempts: int
    next_try_at: datetime
    claimed_until: datetime | None
    error: str | None
    created_at: datetime
    applied_at: datetime | None


def read(row: Any) -> Compensation:
    """A row of the table `compensation`."""
    return Compensation(**dict(row))


async def add(
    pool: Pool,
    *,
    account: str,
    origin: str,
    amount: int,
    reason: str,
    of: str | None = None,
    by: Caller,
) -> tuple[Compensation, bool]:
    """Owe an account `amount` microcredits; answers the row, and whether it is new.

    Raises InvalidRequest, KeyReused where the origin has another content, StoreUnavailable.
    """
    check({"amount": amount}, required="amount", account=account, origin=origin, of=of)
    if len(origin) > ORIGIN_MAX:
        raise InvalidRequest.of_field("origin", f"must be at most {ORIGIN_MAX} characters")
    if not reason.strip() or len(reason) > REASON_MAX or "\0" in reason:
        message = f"must be 1 to {REASON_MAX} characters, none of them U+0000"
        raise InvalidRequest.of_field("reason", message)
    async with pool.acquire() as conn, conn.transaction():
        row = await conn.fetchrow(
            sql("compensation_insert"), account, origin, of, amount, reason, by.actor
        )
        if row is not None:
            owed = read(row)
            await audit.record_as(
                by,
                conn,
                action="compensation.add",
                subject=f"compensation:{owed.id}",
                account=account,
                after={"origin": origin, "of": of, "amount": amount, "reason": reason},
            )
            return owed, True
        found = read(await conn.fetchrow(sql("compensation_find"), account, origin))
    asked = {"of": of, "amount": amount, "reason": reason}
    for field in _CONTENT:
        if getattr(found, field) != asked[field]:
            raise _reused(origin, field)
    return found, False


def _reused(origin: str, field: str) -> KeyReused:
    return KeyReused(
        f"origin {origin!r} was compensated before with another {field}; "
        "repeat the first request unchanged, or use a new origin",
        errors=[{"field": field, "message": "differs from the first request with this origin"}],
        field=field,
    )


async def page(
    pool: Pool,
    *,
    state: State | None = None,
    account: str | None = None,
    after: str | None = None,
    limit: int,
) -> Page[Compensation]:
    """Compensations by id, oldest first. Raises InvalidRequest, StoreUnavailable."""
    last = 0 if after is None else _number(after)
    if last is None:
        raise InvalidRequest.of_field("after", "must be `next` of the page before")
    rows = await pool.fetch(sql("compensation_page"), last, limit + 1, state, account)
    data = [read(row) for row in rows[:limit]]
    return Page(data, str(data[-1].id) if len(rows) > limit else None)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


async def retry(
    pool: Pool,
    number: str,
    *,
    by: Caller,
    covers: Callable[[str], bool] = lambda _account: True,
) -> Compensation:
    """Have a compensation tried anew, at once; one that was applied is answered as it is.

    `covers` says of which accounts the caller may know. Raises NotFound, StoreUnavailable.
    """
    wanted = _number(number)
    async with pool.acquire() as conn, conn.transaction():
        row = None if wanted is None else await conn.fetchrow(sql("compensation_read"), wanted)
        if row is None or not covers(row["account"]):
            raise NotFound(f"there is no compensation {number[:32]!r}")
        owed = read(row)
        if owed.state == "applied":
            return owed
        await audit.record_as(
            by,
            conn,
            action="compensation.retry",
            subject=f"compensation:{owed.id}",
            account=owed.account,
            before={"state": owed.state, "attempts": owed.attempts, "error": owed.error},
        )
        return read(await conn.fetchrow(sql("compensation_retry"), wanted))


async def gauges(pool: Pool) -> Iterator[Reading]:
    """How many are not applied, as gauges of telemetry.METRICS. Raises StoreUnavailable."""
    row = await pool.fetchrow(sql("compensation_counts"))
    assert row is not None  # it counts
    states: tuple[State, ...] = ("pending", "failed")
    return iter([("holdfast_compensations_open", (each,), float(row[each])) for each in states])
