"""Allowances: the worker gives accounts the credits of their plans, once a period.

States of a period: due ──▶ refreshed (row, grant in the outbox) ──▶ rolled over (what was left of
the one before is known). A period that ended before anybody looked is noted as missed: its credits
would have expired by now, so it gives none.

A round, in bounded steps, each one Postgres transaction:

    refresh      `allowance` rows that are due ─▶ `allowance_refresh` rows, outbox, next day
    roll over    periods that wait for it ─▶ what was forfeited at the end of the one before,
                 as the journal has it ─▶ outbox

What a period gives expires with it. At its end the sweeper forfeits what is left, with an entry; as
much of that as the plan's cap allows is granted anew, and expires with the next period:

    left over(P)    = what was forfeited of the grants of P; of a missed P all that it would have
                      had: credits(P) + rolled over(P)
    rolled over(N)  = min(rollover cap of N, left over(P)),  where P ends on the day N begins

What should have been rolled over into a period that was over before that could be known (`lapsed`)
is left over of it.

Rules. Rows are taken FOR UPDATE SKIP LOCKED, so several workers share the work; a period's row is
unique, and its credits are in the outbox in the same transaction, under a key that is made of the
period: whatever ends a worker, a period is given once or not yet. Days are those of `now`, which is
Postgres's time: a grant is never made before its period by the clock that expires it, give or take
the second that clocks may differ.

Failures. Postgres away: the round ends, the next one finds the same rows. A grant that the ledger
refuses (account closed, amount limit) is failed in the outbox, for an operator; it counts as missed
when the next period asks what was left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final

from holdfast.telemetry import log
from settlement.outbox import enqueue
from settlement.periods import Period, period_at, periods_until
from settlement.queries import Connection, Pool, sql

# Nobody waits for the second in which a month begins.
PERIOD_S: Final = 1.0
# Accounts of one transaction: three statements each keep its rows for about a tenth of a second.
_TOGETHER: Final = 100
# Transactions of a round and kind, so that neither kind waits for long while the other is busy.
_TRANSACTIONS: Final = 20
# Periods looked at to find what was left: five years of missed months. Of what lies before them
# nothing is carried.
_LOOK_BACK: Final = 60


class Allowances:
    """The service of one worker that refreshes what is due. Several at once share the work."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._after = ""
        """The last account that was looked at for rolling over: the next look goes on behind it, so
        that those which must wait (their shard is closed) keep no others waiting."""

    async def run(self) -> None:
        """A round a second, until cancelled. Raises what asyncpg raises, and OSError."""
        while True:
            async with self._pool.acquire() as conn:
                now_ms = await conn.fetchval(sql("clock_now"))
            await self.round(datetime.fromtimestamp(now_ms / 1000, UTC))
            await asyncio.sleep(PERIOD_S)

    async def round(self, now: datetime) -> tuple[int, int]:
        """Refresh and roll over what `now` asks for; answers how many accounts, and periods."""
        today = now.astimezone(UTC).date()
        refreshed = rolled = 0
        for _ in range(_TRANSACTIONS):
            done = await self._refresh(today)
            refreshed += done
            if done < _TOGETHER:
                break
        for _ in range(_TRANSACTIONS):
            done = await self._roll_over(today)
            rolled += done
            if not self._after:
                break
        return refreshed, rolled

    async def _refresh(self, today: date) -> int:
        """Refresh at most 100 accounts; answers how many were due."""
        missed = 0
        async with self._pool.acquire() as conn, conn.transaction():
            due = await conn.fetch(sql("allowance_due"), today, _TOGETHER)
            for row in due:
                missed += await _refresh_one(conn, row, today)
        if missed:
            log("allowance_missed", periods=missed)
        return len(due)

    async def _roll_over(self, today: date) -> int:
        """Look at the next 100 periods that wait; answers how many were decided."""
        async with self._pool.acquire() as conn, conn.transaction():
            waiting = await conn.fetch(sql("rollover_waiting"), self._after, _TOGETHER)
            ready = [row for row in waiting if row["ready"]]
            done = sum([await _roll_over_one(conn, row, today) for row in ready])
        self._after = waiting[-1]["account"] if len(waiting) == _TOGETHER else ""
        return done


# ── refresh ──────────────────────────────────────────────────────────────────────────────────────


async def _refresh_one(conn: Connection, row: Mapping[str, Any], today: date) -> int:
    """Bring one allowance up to `today`; answers how many periods were missed."""
    account, whole = row["account"], row["credits_per_period"]
    if row["closed"] or whole is None:
        await conn.execute(sql("allowance_end"), account)
        return 0
    begin = _begin(row)
    periods = periods_until(row["period"], row["anchor"], begin, today)
    if not periods:  # started anew within a period that was given before
        await conn.execute(sql("allowance_next"), account, begin, row["anchor"])
        return 0
    current = periods[-1]
    follows = len(periods) > 1 or row["last_end"] == begin
    waits = follows and row["rollover_cap"] > 0
    missed = [period is not current for period in periods]
    await conn.execute(
        *(sql("allowance_period"), account, row["plan"], row["rollover_cap"]),
        [period.start for period in periods],
        [period.end for period in periods],
        [period.share_of(whole) for period in periods],
        missed,
        [0 if gone or not waits else None for gone in missed],
    )
    await _owe(conn, "allowance", row, current, current.share_of(whole))
    await conn.execute(sql("allowance_next"), account, current.end, row["anchor"])
    return len(periods) - 1


def _begin(row: Mapping[str, Any]) -> date:
    """Where the first period that is due begins.

    Where the last one ended; for an allowance that was started (again) meanwhile, with the whole
    period that was under way then, but not within one that was given before.
    """
    last_end: date | None = row["last_end"]
    next_at: date = row["next_at"]
    if last_end is not None and last_end >= next_at:
        return last_end
    start = period_at(row["period"], row["anchor"], next_at).start
    return start if last_end is None else max(start, last_end)


def midnight(day: date) -> datetime:
    """When a UTC day begins."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


async def _owe(
    conn: Connection, kind: str, row: Mapping[str, Any], period: Period, amount: int
) -> None:
    """Put a period's credits into the outbox: `kind` is allowance or rollover, `row` names account
    and plan."""
    account, plan = row["account"], row["plan"]
    start, end = period.start.isoformat(), period.end.isoformat()
    await enqueue(
        conn,
        account=account,
        key=f"{kind}:{start}",
        origin=f"{kind} of {account} for {start}",
        amount=amount,
        source="allowance",
        expires_at=midnight(period.end),
        metadata={"plan": plan, "period_start": start, "period_end": end},
    )


# ── roll over ────────────────────────────────────────────────────────────────────────────────────


async def _roll_over_one(conn: Connection, row: Mapping[str, Any], today: date) -> bool:
    """Decide what is carried into one period; False where that cannot be known yet."""
    account, start, end = row["account"], row["period_start"], row["period_end"]
    before = await conn.fetch(sql("rollover_before"), account, start, _LOOK_BACK)
    missed, given = _chain(before, start)
    left = 0
    if given is not None:
        began = given["period_start"].isoformat()
        keys = [f"allowance:{began}", f"rollover:{began}"]
        ended = midnight(given["period_end"])
        found = await conn.fetchrow(sql("rollover_left"), account, keys, ended)
        if found["open"]:
            return False
        # No more than it had: of 17 grants two are merged into one, and expire as one.
        left = min(found["forfeited"], given["granted"] + given["rolled_over"]) + given["lapsed"]
    carried = carry(left, missed, row["rollover_cap"])
    if end <= today:
        await conn.execute(sql("rollover_decide"), account, start, 0, carried)
        return True
    await conn.execute(sql("rollover_decide"), account, start, carried, 0)
    if carried:
        await _owe(conn, "rollover", row, Period(start, end, 1), carried)
    return True


def _chain(
    before: Sequence[Mapping[str, Any]], start: date
) -> tuple[list[tuple[int, int]], Mapping[str, Any] | None]:
    """What lies just before `start`: credits and cap of the periods that were missed, oldest first,
    and the period before those, that gave its credits, if there is one."""
    missed: list[tuple[int, int]] = []
    for row in before:
        if row["period_end"] != start:
            break
        if not row["missed"]:
            return missed[::-1], row
        missed.append((row["credits"], row["rollover_cap"]))
        start = row["period_start"]
    return missed[::-1], None


def carry(left: int, missed: Sequence[tuple[int, int]], cap: int) -> int:
    """What is carried on of `left` over missed periods (credits and cap of each), in microcredits.

    Of a missed period nothing was spent: left over is all that it would have had.
    """
    for credits, its_cap in missed:
        left = credits + min(its_cap, left)
    return min(cap, left)
