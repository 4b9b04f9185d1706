"""Allowances: the credits that an account's plan gives it by period, as Postgres has them.

The worker gives them (`settlement/allowances.py`); here they are read and stopped. They are started
by assigning a plan that gives credits (`plans.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

from holdfast import audit
from holdfast.errors import InvalidRequest, NotFound
from holdfast.postgres import Pool
from holdfast.queries import sql

OutboxState = Literal["pending", "applied", "failed"]


@dataclass(frozen=True, slots=True)
class Allowance:
    """What an account is given by period, and what comes next. Amounts in microcredits."""

    account: str
    plan: str
    credits_per_period: int | None
    """As the plan has it now; it counts from the next period on. None: it ends then."""
    period: Literal["month", "anniversary"]
    rollover_cap: int
    anchor: date | None
    """The day whose anniversaries begin periods; None: not given, and nothing was given yet."""
    next_at: date
    """The UTC day of the next refresh."""
    started_at: datetime
    stopped_at: datetime | None


@dataclass(frozen=True, slots=True)
class Refresh:
    """One period of an allowance. `period_end` is the first day after it."""

    period_start: date
    period_end: date
    plan: str
    credits: int
    """What the plan gives for this period."""
    granted: int
    """The same, or 0 for a period that was missed."""
    rolled_over: int | None
    """What was carried into it; None until it is known what was left of the period before."""
    missed: bool
    state: OutboxState
    """Of its grants: pending until the journal has them; failed: see the outbox."""
    at: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of the list of allowances, and the cursor of the next one, or None at the end."""

    data: list[Allowance]
    next: str | None


@dataclass(frozen=True, slots=True)
class History:
    """Periods, newest first, and the cursor of the next ones, or None at the end."""

    data: list[Refresh]
    next: str | None


async def find(pool: Pool, account: str) -> Allowance:
    """The allowance of an account, a stopped one too. Raises NotFound, StoreUnavailable."""
    row = await pool.fetchrow(sql("find_allowance"), account)
    if row is None:
        raise NotFound(f"account {account!r} has no allowance")
    return _allowance(row)


async def page(pool: Pool, after: str | None = None, limit: int = 100) -> Page:
    """Allowances by account, those after `after`. Raises StoreUnavailable."""
    rows = await pool.fetch(sql("list_allowances"), after or "", limit + 1)
    data = [_allowance(row) for row in rows[:limit]]
    return Page(data, data[-1].account if len(rows) > limit else None)


async def history(
    pool: Pool, account: str, *, after: str | None = None, limit: int = 100
) -> History:
    """The periods of an account, newest first. Raises InvalidRequest, StoreUnavailable."""
    try:
        before = None if after is None else date.fromisoformat(after)
    except ValueError:
        raise InvalidRequest.of_field("after", "must be `next` of the page before") from None
    rows = await pool.fetch(sql("list_refreshes"), account, before, limit + 1)
    data = [Refresh(**{name: row[name] for name in Refresh.__slots__}) for row in rows[:limit]]
    return History(data, data[-1].period_start.isoformat() if len(rows) > limit else None)


async def stop(pool: Pool, account: str, *, by: audit.Caller) -> Allowance:
    """Give nothing more; what was given stays until it expires. Repeating it changes nothing.

    Raises NotFound, StoreUnavailable.
    """
    async with pool.acquire() as conn, conn.transaction():
        if await conn.fetchval(sql("stop_allowance"), account) is not None:
            subject = f"account:{account}"
            await audit.record_as(
                by, conn, action="allowance.stop", subject=subject, account=account
            )
        found = await conn.fetchrow(sql("find_allowance"), account)
    if found is None:
        raise NotFound(f"account {account!r} has no allowance")
    return _allowance(found)


def _allowance(row: Mapping[str, Any]) -> Allowance:
    return Allowance(**{name: row[name] for name in Allowance.__slots__})
