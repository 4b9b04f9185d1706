"""Deliveries: events on their way to endpoints, at least once, in no promised order.

    pending ──2xx──▶ delivered
       │ ▲  └──410 Gone, or the last attempt failed──▶ dead ──an operator resends──▶ pending
       └─┘ anything else: the next attempt, later

A round: events that are new become deliveries (`event_fan`); of those that are due this worker
claims as many as it has room for, and starts an attempt for each. An attempt posts and notes how
it ended. The claim is `next_try_at` itself, moved beyond the end of the attempt: a worker that is
killed in between leaves a delivery that is due again after 30 s, under the same event id, by which
receivers tell a repeat. What was posted and could not be noted is posted again likewise.

Every endpoint has room of its own, so one that is slow keeps only its own deliveries waiting; each
worker has as much. All of it shares the event loop with the settle loop, from which it takes short
statements on one connection at a time, and no wait.

Failures. Postgres away: the round is logged and repeated. A receiver that fails is its delivery's
`last_error`. What is over, or has waited, for `config.event_retention_s` is dropped, and the events
behind it: so the tables are bounded by what happens in that time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import orjson

from holdfast import audit
from holdfast.telemetry import Sampler, log
from holdfast.webhooks import MAX_ENDPOINTS
from settlement import failpoints
from settlement.courier import TOTAL_S, Courier, Ending, Letter
from settlement.failures import POSTGRES_FAILURES, described
from settlement.queries import Connection, sql
from settlement.state import WorkerState

BACKOFF_S: Final = (
    *(5, 300, 1800, 7200, 18_000, 36_000),
    *(50_400, 72_000, 86_400),
)
"""Seconds before each attempt after the first, as Standard Webhooks recommends: three days in all.
Ten attempts; then the delivery is dead."""

# Each is spread by so much either way: what failed together does not come back together.
_JITTER: Final = 0.1
# Attempts at once to one endpoint, by one worker: with a receiver that takes 50 ms, 80 a second.
ROOM: Final = 4
# Beyond the end of the longest attempt and of the statement that notes it (10 s and 6 s).
_CLAIM_S: Final = TOTAL_S + 20.0
# Events that one round fans out, to 16 endpoints at most: 8,000 rows in 0.2 s.
_FAN: Final = 500
_BUSY_PAUSE_S: Final = 0.05
_IDLE_PAUSE_S: Final = 0.5
_FAILED_PAUSE_S: Final = 1.0
# A minute's pruning: 20 statements of 1,000 rows, 10 ms each. A worker so keeps up with 300 a
# second, three times what it could have sent to one endpoint.
_PRUNE_EVERY_S: Final = 60.0
_PRUNE: Final = 1000
_PRUNES: Final = 20
_GONE: Final = 410


class Deliveries:
    """The service of one worker that sends events."""

    def __init__(self, state: WorkerState, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds, of whatever origin; it never goes back."""
        self.state = state
        self._clock = clock
        self._under_way: dict[asyncio.Task[None], str] = {}
        """The attempts of now, and the endpoint of each."""
        self._noting = asyncio.Semaphore(1)  # one connection of the pool, never more
        self._pruned_at = clock()
        self._logs = Sampler(5.0)

    async def run(self) -> None:
        """Rounds until cancelled; attempts that are under way then are made again by others."""
        room = ROOM * MAX_ENDPOINTS
        courier = Courier(private=self.state.config.endpoints_private, room=room)
        try:
            while True:
                try:
                    busy = await self.round(courier)
                    if self._clock() - self._pruned_at >= _PRUNE_EVERY_S:
                        self._pruned_at = self._clock()
                        await self.prune()
                    pause_s = _BUSY_PAUSE_S if busy or self._under_way else _IDLE_PAUSE_S
                except POSTGRES_FAILURES as error:
                    self._logs.log("deliveries_failed", "round", error=described(error))
                    pause_s = _FAILED_PAUSE_S
                await asyncio.sleep(pause_s)
        finally:
            await self._end()
            await courier.close()

    async def _end(self) -> None:
        under_way = list(self._under_way)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def round(self, courier: Courier) -> bool:
        """Fan out, claim and start what there is room for; whether there was anything.

        Raises what asyncpg raises.
        """
        busy = Counter(self._under_way.values())
        async with self._noting, self.state.pool.acquire() as conn:
            fanned: int = await conn.fetchval(sql("event_fan"), _FAN)
            if fanned:
                failpoints.hit("fanned")
            endpoints = {row["id"]: row for row in await conn.fetch(sql("delivery_endpoints"))}
            room = {each: ROOM - busy[each] for each in endpoints if busy[each] < ROOM}
            claimed: list[Any] = []
            if room:
                claimed = await conn.fetch(
                    sql("delivery_claim"), list(room), list(room.values()), _CLAIM_S
                )
        if claimed:
            failpoints.hit("claimed")
        for row in claimed:
            letter = _letter(row, endpoints[row["endpoint"]])
            task = asyncio.create_task(self._attempt(courier, row, letter))
            self._under_way[task] = row["endpoint"]
            task.add_done_callback(self._done)
        return bool(fanned or claimed)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._logs.log("deliveries_failed", "attempt", error=described(error))

    async def _attempt(self, courier: Courier, row: Any, letter: Letter) -> None:
        ending = await courier.post(letter)
        failpoints.hit("posted")
        async with self._noting, self.state.pool.acquire() as conn:
            await note(conn, row, ending)

    async def prune(self) -> int:
        """Drop what is over for longer than the retention; answers how many rows went."""
        retention_s = float(self.state.config.event_retention_s)
        gone = 0
        for statement in ("delivery_prune", "event_prune"):
            for _ in range(_PRUNES):
                async with self._noting, self.state.pool.acquire() as conn:
                    some: int = await conn.fetchval(sql(statement), retention_s, _PRUNE)
                gone += some
                if some < _PRUNE:
                    break
        return gone


async def note(conn: Connection, row: Any, ending: Ending) -> None:
    """Write down how an attempt of a claimed delivery ended. Raises what asyncpg raises."""
    error = ending.error or (None if ending.delivered else f"it answered {ending.status}")
    state, wait_s = "pending", 0.0
    if ending.delivered:
        state = "delivered"
    elif ending.status == _GONE or row["attempts"] >= len(BACKOFF_S):
        state = "dead"
    else:
        wait_s = BACKOFF_S[row["attempts"]] * random.uniform(1 - _JITTER, 1 + _JITTER)
    async with conn.transaction():
        await conn.execute(sql("delivery_note"), row["id"], state, ending.status, error, wait_s)
        if ending.status == _GONE:
            await _disable(conn, row["endpoint"])
    if state == "dead":
        log("delivery_dead", delivery=row["id"], endpoint=row["endpoint"], error=error)


async def _disable(conn: Connection, endpoint: str) -> None:
    """The receiver wants no more: not for this event, but at all."""
    why = "it answered 410 Gone"
    if await conn.fetchval(sql("endpoint_gone"), endpoint, why) is None:
        return
    await audit.record(
        conn,
        actor=audit.SYSTEM.actor,
        action="endpoint.disable",
        subject=f"endpoint:{endpoint}",
        after={"why": why},
    )
    log("endpoint_disabled", endpoint=endpoint, why=why)


def _letter(row: Any, endpoint: Any) -> Letter:
    """The body is the same in every attempt; only the time that is signed with it is another."""
    at = row["at"].isoformat(timespec="milliseconds").replace("+00:00", "Z")
    data = orjson.loads(row["data"])
    if row["account"] is not None:
        data = {"account": row["account"], **data}
    body = orjson.dumps({"type": row["kind"], "timestamp": at, "data": data}).decode()
    secrets = [each for each in (endpoint["secret"], endpoint["old_secret"]) if each is not None]
    return Letter(endpoint["url"], secrets, row["event"], body)
