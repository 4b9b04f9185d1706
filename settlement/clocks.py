"""Is the clock of a Redis node within a second of Postgres's (of this worker's while that is away)?

A reading is a time that was told somewhere between two moments; so two clocks can be told apart
only as far as those moments leave no doubt. A clock that is certainly off closes its shards, and is
one incident until it agrees again.

A clock that was ahead has done harm when it is right again: Redis ended by it the records of what
is over, and takes a key that it no longer knows for a new one. So each of its shards is told
(`meta.ahead_ms`), and is rebuilt before it serves again, whoever finds it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from holdfast.telemetry import Sampler
from holdfast.wire import Node, ServerError, WireError
from settlement import incidents
from settlement.failures import POSTGRES_FAILURES
from settlement.queries import sql
from settlement.state import WorkerState

SLACK_MS = 1000
# An incident that cannot be written so fast is written by a later round: leases do not wait for it.
_TELL_S = 0.4
# A `meta` that no script can read: vetting finds that, and stops the shard.
_DAMAGE = frozenset({"WRONGTYPE", "ERR"})


class ClockAhead(Exception):
    """A node is not to be vetted before its clock is right."""


@dataclass(frozen=True, slots=True)
class Span:
    """Two moments of this process's monotonic clock, in s, between which something was told."""

    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What a node said of itself before the proof of life."""

    taken_ms: int
    """Its TIME, in ms since 1970."""
    span: Span
    roomy: bool
    """Whether its memory has room for new spending."""
    numbers: tuple[int, ...] = ()
    """The shards that are asked for on it."""
    offsets: dict[int, int] = field(default_factory=dict)
    """The test build alone: how far the scripts of a shard are from TIME, in ms."""


def skew_ms(reading_ms: int, reading: Span, clock_ms: int, clock: Span) -> float:
    """How far two clocks are apart at least, in ms; positive where the reading is ahead.

    0 where their spans allow that they agree.
    """
    apart = reading_ms - clock_ms
    low = apart + (clock.began - reading.ended) * 1000
    high = apart + (clock.ended - reading.began) * 1000
    if low <= 0 <= high:
        return 0.0
    return low if low > 0 else high


class Clocks:
    """What one worker knows of the clocks of its nodes."""

    def __init__(self, state: WorkerState) -> None:
        self._state = state
        self._off: set[int] = set()
        """Shards whose clock was off when it was last compared."""
        self._behind: set[int] = set()
        """Shards that have recorded a later time than their Redis tells now."""
        self._ahead: dict[int, int] = {}
        """Shards whose clock was ahead, at this time in ms, and that were not told so yet."""
        self._told: dict[str, bool] = {}
        """Subjects (nodes, shards) whose incident is as it should be: open, or closed."""
        self._logs = Sampler(5.0)

    def sane(self, number: int) -> bool:
        """False where time cannot be trusted: no lease, no sweep."""
        off = self._off | self._behind | self._ahead.keys()
        return number not in off

    def answered(self, number: int, *, behind: bool) -> None:
        """What the lease script said: is its TIME behind the one that the shard has recorded?"""
        (self._behind.add if behind else self._behind.discard)(number)

    async def offsets(self, node: Node, numbers: Iterable[int], taken_ms: int) -> dict[int, int]:
        """How far a test has moved the clock of the scripts (lua/lib/clock_test.lua), in ms."""
        found: dict[int, int] = {}
        if self._state.shards.test_clock:
            for number in numbers:
                meta = self._state.shards.keys[number].meta
                now, offset = await node.call("HMGET", meta, "test_now_ms", "test_offset_ms")
                found[number] = int(now) - taken_ms if now else int(offset or 0)
        return found

    async def compare(
        self, readings: Mapping[Node, Reading], clock_ms: int, clock: Span, *, postgres: bool
    ) -> set[int]:
        """The shards whose clock agrees with `clock_ms`, which was told within `clock`.

        `postgres`: the clock is Postgres's, which is there then to be told of an incident.
        """
        sane: set[int] = set()
        ahead: dict[int, int] = {}
        wrong: dict[str, str] = {}
        for node, reading in readings.items():
            off = {
                number: skew
                for number in reading.numbers
                if abs(skew := self._skew_ms(number, reading, clock_ms, clock)) > SLACK_MS
            }
            self._off = (self._off - set(reading.numbers)) | off.keys()
            ahead |= {
                number: reading.taken_ms + reading.offsets.get(number, 0)
                for number, skew in off.items()
                if skew > 0
            }
            sane |= set(reading.numbers) - off.keys()
            wrong[f"redis {node.address}"] = self._summary(node, off, postgres) if off else ""
            for number in reading.numbers:
                wrong[f"clock of shard {number}"] = (
                    f"shard {number} has recorded a later time than redis {node.address} tells:"
                    " its clock was set back"
                    if number in self._behind
                    else ""
                )
        await asyncio.gather(self.note_ahead(ahead), self._tell(wrong, postgres))
        return sane - self._ahead.keys()

    async def assert_not_ahead(self, node: Node, numbers: Iterable[int]) -> None:
        """Compare a node that is to be vetted with Postgres, for some of its shards.

        Raises ClockAhead where it is ahead for certain, which its shards are told, and which is an
        incident that the first lease closes; and where they could not be told that it was. Raises
        wire.WireError, and what asyncpg raises.
        """
        numbers = list(numbers)
        began = time.monotonic()
        seconds, micros = await node.call("TIME")
        span = Span(began, time.monotonic())
        taken_ms = int(seconds) * 1000 + int(micros) // 1000
        offsets = await self.offsets(node, numbers, taken_ms)
        reading = Reading(taken_ms, span, roomy=True, numbers=tuple(numbers), offsets=offsets)
        async with self._state.pool.acquire() as conn:
            began = time.monotonic()
            clock_ms: int = await conn.fetchval(sql("clock_now"))
            clock = Span(began, time.monotonic())
            skews = {n: self._skew_ms(n, reading, clock_ms, clock) for n in numbers}
            ahead = {number: skew for number, skew in skews.items() if skew > SLACK_MS}
            await self.note_ahead({n: taken_ms + offsets.get(n, 0) for n in ahead})
            if ahead:
                summary = self._summary(node, ahead, postgres=True)
                await incidents.begin(conn, "clock", summary, subject=f"redis {node.address}")
                raise ClockAhead(summary)
        if untold := self._ahead.keys() & set(numbers):
            raise ClockAhead(f"shards {sorted(untold)} cannot be told that their clock was ahead")

    async def note_ahead(self, found: Mapping[int, int] | None = None) -> None:
        """Tell the shards whose clock was `found` ahead, at a time in ms, and those that could not
        be told before."""
        self._ahead |= found or {}

        async def one(number: int, told_ms: int) -> None:
            try:
                async with asyncio.timeout(_TELL_S):
                    await self._state.shards.note_ahead(number, told_ms)
            except ServerError as error:
                if error.code not in _DAMAGE:
                    return
            except (WireError, TimeoutError):
                return  # no lease and no vetting before it is told
            self._ahead.pop(number, None)

        await asyncio.gather(*(one(*each) for each in self._ahead.items()))

    @staticmethod
    def _skew_ms(number: int, reading: Reading, clock_ms: int, clock: Span) -> float:
        told_ms = reading.taken_ms + reading.offsets.get(number, 0)
        return skew_ms(told_ms, reading.span, clock_ms, clock)

    @staticmethod
    def _summary(node: Node, off: Mapping[int, float], postgres: bool) -> str:
        worst = max(off.values(), key=abs)
        whose = "Postgres's" if postgres else "this worker's"
        where = "ahead of" if worst > 0 else "behind"
        then = "; its shards are rebuilt once it is right" if worst > 0 else ""
        return f"the clock of redis {node.address} is {abs(worst):.0f} ms {where} {whose}{then}"

    async def _tell(self, wrong: Mapping[str, str], postgres: bool) -> None:
        """Log what changed, and open or close its incident where Postgres can take it."""
        for subject, summary in wrong.items():
            is_wrong = bool(summary)
            # A shard that was never behind has no incident to close; a node may have one, which a
            # worker opened that is no more.
            known = self._told.get(subject, None if subject.startswith("redis ") else False)
            if known is is_wrong:
                continue
            if is_wrong:
                self._logs.log("clock_insane", subject, summary=summary)
            if not postgres:
                continue
            try:
                async with asyncio.timeout(_TELL_S), self._state.pool.acquire() as conn:
                    if is_wrong:
                        await incidents.begin(conn, "clock", summary, subject=subject)
                    else:
                        await incidents.end(conn, "clock", subject=subject)
            except POSTGRES_FAILURES:
                continue  # the next round tells it
            self._told[subject] = is_wrong
