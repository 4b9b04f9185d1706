"""Is the clock of a Redis node within a second of Postgres's (of this worker's while that is away)?

A reading is a time that was told somewhere between two moments; so two clocks can be told apart
only as far as those moments leave no doubt. A clock that is certainly off closes its shards, and is
one incident until it agrees again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from holdfast.telemetry import Sampler
from holdfast.wire import Node
from settlement import incidents
from settlement.failures import POSTGRES_FAILURES
from settlement.state import WorkerState

SLACK_MS = 1000
# An incident that cannot be written so fast is written by a later round: leases do not wait for it.
_TELL_S = 0.4


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
        self._told: dict[str, bool] = {}
        """Subjects (nodes, shards) whose incident is as it should be: open, or closed."""
        self._logs = Sampler(5.0)

    def sane(self, number: int) -> bool:
        """False where time cannot be trusted: no lease, no sweep."""
        return number not in self._off and number not in self._behind

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
        wrong: dict[str, str] = {}
        for node, reading in readings.items():
            off = {
                number: skew
                for number in reading.numbers
                if abs(skew := self._skew_ms(number, reading, clock_ms, clock)) > SLACK_MS
            }
            self._off = (self._off - set(reading.numbers)) | off.keys()
            sane |= set(reading.numbers) - off.keys()
            wrong[f"redis {node.address}"] = self._summary(node, off, postgres) if off else ""
            for number in reading.numbers:
                wrong[f"clock of shard {number}"] = (
                    f"shard {number} has recorded a later time than redis {node.address} tells:"
                    " its clock was set back"
                    if number in self._behind
                    else ""
                )
        await self._tell(wrong, postgres)
        return sane

    @staticmethod
    def _skew_ms(number: int, reading: Reading, clock_ms: int, clock: Span) -> float:
        told_ms = reading.taken_ms + reading.offsets.get(number, 0)
        return skew_ms(told_ms, reading.span, clock_ms, clock)

    @staticmethod
    def _summary(node: Node, off: Mapping[int, float], postgres: bool) -> str:
        worst = max(off.values(), key=abs)
        whose = "Postgres's" if postgres else "this worker's"
        where = "ahead of" if worst > 0 else "behind"
        return f"the clock of redis {node.address} is {abs(worst):.0f} ms {where} {whose}"

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
