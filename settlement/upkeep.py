"""Upkeep: streams are trimmed, idle accounts evicted, the journal's partitions made ahead of time.

Once a second. A stream keeps what is not settled, what was settled within the retention
(`config.stream_retention_s`: so far back can a Postgres that lost its last commits be refilled),
and at most 100,000 settled entries. How old an entry is, a worker knows by what it saw settled
when: a new worker has seen nothing, and trims for the first time after one retention.

Failures. Each part fails alone; the next round tries again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from holdfast.codes import Code
from holdfast.telemetry import Sampler
from holdfast.wire import WireError
from settlement import failpoints
from settlement.eviction import Eviction
from settlement.failures import POSTGRES_FAILURES, described
from settlement.partitions import make_partitions
from settlement.state import ShardRow, WorkerState

PERIOD_S = 1.0
_PARTITIONS_S: Final = 3600.0
# Settled entries that a stream keeps at most, about 60 MB: a shard that makes more than 170 entries
# a second keeps less than the default retention.
KEPT_MAX: Final = 100_000
# Entries that one call drops, about 1 ms of Redis's time, and calls a shard and round: as many as
# a shard at full speed adds in a second.
_TRIM: Final = 10_000
_TRIMS: Final = 3
# XTRIM drops whole nodes of the stream, 4 kB or some ten entries each: less than ten of them are
# not worth a call.
_WORTHWHILE: Final = 100
# Samples that a retention is divided into: how much longer than it an entry stays.
_SAMPLES: Final = 20


@dataclass(slots=True)
class _Settled:
    """What a worker saw of a shard's mark, and when."""

    generation: int
    samples: deque[tuple[float, int]] = field(default_factory=deque)
    """Moment (monotonic, s) and mark, oldest first: one older than the retention, and its parts."""
    trimmed: int = 0
    """Entries up to here were dropped."""


class Upkeep:
    """The service of one worker that keeps what it claims small."""

    def __init__(self, state: WorkerState, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds, of whatever origin; it never goes back."""
        self.state = state
        self.eviction = Eviction(state)
        self._clock = clock
        self._seen: dict[int, _Settled] = {}
        self._partitions_at = 0.0
        self._logs = Sampler(5.0)

    async def run(self) -> None:
        """A round a second, until cancelled."""
        while True:
            await self._attempt("trim", self.trim)
            await self._attempt("evict", self.eviction.round)
            if self._clock() >= self._partitions_at:
                self._partitions_at = self._clock() + _PARTITIONS_S
                await self._attempt("partitions", self.partitions)
            await asyncio.sleep(PERIOD_S)

    async def _attempt(self, part: str, work: Callable[[], Awaitable[int]]) -> None:
        try:
            await work()
        except (WireError, *POSTGRES_FAILURES) as error:
            self._logs.log("upkeep_failed", part, part=part, error=described(error))

    async def partitions(self) -> int:
        """Make the journal's partitions of the coming months; answers how many were missing."""
        async with self.state.pool.acquire() as conn:
            return await make_partitions(conn)

    async def trim(self) -> int:
        """Trim the streams of all open shards; answers how many entries went."""
        rows = self.state.claimed("open")
        return sum(await asyncio.gather(*map(self._trim_shard, rows)))

    async def _trim_shard(self, row: ShardRow) -> int:
        seen = self._sample(row)
        keep_from = self._keep_from(row, seen)
        if keep_from - 1 < seen.trimmed + _WORTHWHILE:
            return 0
        failpoints.hit("before_trim")
        keys = self.state.shards.keys[row.number].of_shard()[:4]
        gone = 0
        for _ in range(_TRIMS):
            args = [keep_from, _TRIM]
            code, rest = await self.state.shards.run(row.number, "trim", row.nonce, keys, args)
            if code is not Code.OK:
                return gone  # another generation; or Redis has not been told of the mark yet
            gone += rest[0]
            if rest[0] < _TRIM - _WORTHWHILE:
                seen.trimmed = keep_from - 1
                break
        failpoints.hit("trim")
        return gone

    def _sample(self, row: ShardRow) -> _Settled:
        """Note the mark, as often as the retention needs it."""
        now, retention_s = self._clock(), self.state.config.stream_retention_s
        seen = self._seen.get(row.number)
        if seen is None or seen.generation != row.generation:
            # Another generation may have gone back behind what was seen.
            seen = self._seen[row.number] = _Settled(row.generation)
        samples = seen.samples
        if not samples or now - samples[-1][0] >= retention_s / _SAMPLES:
            samples.append((now, row.mark))
        while len(samples) > 1 and now - samples[1][0] >= retention_s:
            samples.popleft()
        return seen

    def _keep_from(self, row: ShardRow, seen: _Settled) -> int:
        """The first entry that stays; never above what both stores have settled."""
        at, mark = seen.samples[0]
        old_enough = self._clock() - at >= self.state.config.stream_retention_s
        keep_from = max(mark + 1 if old_enough else 1, row.mark - KEPT_MAX + 1)
        return min(keep_from, row.mark + 1, row.settled + 1)
