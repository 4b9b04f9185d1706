"""Deliveries as an operator sees them: which events are on their way, arrived, or were given up.

The worker sends them (settlement/deliveries.py); this lists them, sends some of them again, and
says how they stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from holdfast import audit
from holdfast.audit import Caller
from holdfast.errors import NotFound
from holdfast.postgres import Pool
from holdfast.queries import sql
from holdfast.telemetry import Reading, log

State = Literal["pending", "delivered", "dead"]

# Counting goes so far: a gauge that says 100,000 says enough, and takes 20 ms.
_COUNTED: Final = 100_000
# Of one statement: 1,000 rows take some 20 ms, of 1,800 that a statement may.
_RESENT: Final = 1000
_NUMBER_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one endpoint."""

    id: int
    event: str
    kind: str
    account: str | None
    endpoint: str
    state: State
    attempts: int
    queued_at: datetime
    next_try_at: datetime
    ended_at: datetime | None
    last_status: int | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How deliveries to endpoints that are not disabled stand; counted up to 100,000."""

    pending: int
    dead: int
    oldest_s: float
    """How long the oldest pending one has been on its way; 0 without one."""


def number_of(text: str) -> int | None:
    """The number that a text writes, as far as a delivery can have it; else None."""
    if text.isascii() and text.isdigit() and len(text) < 20:
        number = int(text)
        return number if 0 < number <= _NUMBER_MAX else None
    return None


async def page(
    pool: Pool,
    *,
    state: State | None = None,
    endpoint: str | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[Delivery]:
    """Deliveries, newest first, those before number `before`. Raises StoreUnavailable."""
    rows = await pool.fetch(sql("list_deliveries"), state, endpoint, before, limit)
    return [Delivery(**dict(row)) for row in rows]


async def find(pool: Pool, number: int) -> Delivery:
    """One delivery. Raises NotFound, StoreUnavailable."""
    found = await page(pool, before=number + 1, limit=1)
    if not found or found[0].id != number:
        raise NotFound(f"there is no delivery {number}")
    return found[0]


async def resend(pool: Pool, caller: Caller, number: int) -> Delivery:
    """Send a delivery again that is over, dead or not: under the same event id, with all attempts.

    Raises NotFound where there is none that is over, or its endpoint is gone; StoreUnavailable.
    """
    async with pool.acquire() as conn, conn.transaction():
        row = await conn.fetchrow(sql("resend_delivery"), number)
        if row is None:
            raise NotFound(f"there is no delivery {number} that is over and has its endpoint yet")
        await _record(conn, caller, f"delivery:{number}", 1)
    log("delivery_resent", deliveries=1)
    return Delivery(**dict(row))


async def resend_dead(pool: Pool, caller: Caller) -> int:
    """Send every dead delivery again; answers how many. Raises StoreUnavailable."""
    resent, some = 0, _RESENT
    while some == _RESENT:
        async with pool.acquire() as conn, conn.transaction():
            some = len(await conn.fetch(sql("resend_dead"), _RESENT))
            if some:
                await _record(conn, caller, "delivery:dead", some)
        resent += some
    log("delivery_resent", deliveries=resent)
    return resent


async def _record(conn: Any, caller: Caller, subject: str, count: int) -> None:
    row = audit.Row(caller, "delivery.resend", subject, after={"deliveries": count})
    await audit.record_rows(conn, [row])


async def standing(conn: Any) -> Standing:
    """How they stand; `conn` is a connection, or a pool. Raises what asking Postgres raises."""
    row = await conn.fetchrow(sql("delivery_standing"), _COUNTED)
    return Standing(row["pending"], row["dead"], row["oldest_s"] or 0.0)


def gauges(found: Standing) -> Iterator[Reading]:
    """The same as gauges of telemetry.METRICS."""
    yield "holdfast_deliveries_pending", (), float(found.pending)
    yield "holdfast_deliveries_dead", (), float(found.dead)
    yield "holdfast_delivery_oldest_seconds", (), found.oldest_s
