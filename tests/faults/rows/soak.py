"""Millions of transitions on accounts that some use much and many use now and then.

The load goes through the ledger in this process, as fast as the stores take it; AOF `always`, one
worker. What has been settled leaves the stream after a second, records go a minute after their end,
accounts that rest for five leave Redis and are loaded again, and holds that nobody ends expire.
So memory is bounded, while entries go on for ever.

A run is a piece of it, on stores of its own, so that it can be stopped and resumed. At its end the
journal is replayed, entry by entry, and compared with what the callers were told by account and by
kind of operation; single answers of millions are not kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.faults.catalogue import Figures, Row, Run
from tests.faults.checker import check
from tests.faults.direct import direct
from tests.faults.history import Tally
from tests.faults.mix import Mix
from tests.faults.place import PATIENCE_S, Place, service
from tests.faults.program import POLL_S

_SETTINGS = {
    "stream_retention_s": "1",
    "key_window_s": "60",
    # Redis never has less than a megabyte: whatever rests is evicted.
    "evict_idle_s": "5",
    "evict_above_mb": "1",
}
# Holds that were forgotten expire within the run, so that their accounts may rest.
_MIX = Mix(ttl_s=20)
_MEGABYTE = 1 << 20
_MAXMEMORY_MB = 256
# Above it a worker lends nothing for new spending. The entries of a whole run, kept, take 150 MB,
# and everything else 60: one that trims nothing does not get through.
_FULL = 0.7
# Trimming leaves a hundred entries that are not worth a call, and what of a node is in use.
_LEFT_MAX = 250
_SAMPLE_S = 0.5


async def _run(run: Run) -> Figures:
    wanted, accounts = run.sized(250_000, 3_000), run.sized(2_000, 150)
    history = Tally()
    async with service(
        run.directory, settings=_SETTINGS, maxmemory=f"{_MAXMEMORY_MB}mb", seed=run.seed
    ) as place:
        async with (
            direct(place, history, seed=run.seed, accounts=accounts, mix=_MIX) as load,
            _watched(place) as memory_mb,
        ):
            await load.open()
            began = time.monotonic()
            await load.run(wanted, callers=run.sized(512, 32))
            took_s = time.monotonic() - began
            evicted = await _evicted(place)
        verdict = await check(history, place, timeout_s=2 * PATIENCE_S)
        verdict.assert_clean()
        assert verdict.entries >= wanted, verdict.text()
        assert verdict.applied == verdict.absent == 0, f"nothing was broken: {verdict.text()}"
        await _trimmed(place)
        report = await place.reconcile()
        assert report["exit_code"] == 0, report
        incidents = await place.incidents()
        assert not incidents, f"nothing was broken, yet there are incidents: {incidents}"
        assert max(memory_mb) < _FULL * _MAXMEMORY_MB, f"{max(memory_mb)} MB"
        # A fast machine is through before accounts have rested in every shard.
        assert run.quick or evicted, "nothing was evicted"
        return {
            "transitions": verdict.entries,
            "transitions_per_s": round(wanted / took_s),
            "memory_peak_mb": round(max(memory_mb)),
            "expired_holds": await _count(place, "expire"),
            "denied_calls": verdict.refused,
            "asked_again": load.refused.total(),
        }


@asynccontextmanager
async def _watched(place: Place) -> AsyncIterator[list[float]]:
    """Megabytes that Redis uses, twice a second while the block runs."""
    used: list[float] = []

    async def look() -> None:
        async with place.redis_client() as client:
            while True:
                used.append((await client.info("memory"))["used_memory"] / _MEGABYTE)
                await asyncio.sleep(_SAMPLE_S)

    async with asyncio.TaskGroup() as group:
        looking = group.create_task(look())
        try:
            yield used
        finally:
            looking.cancel()


async def _evicted(place: Place) -> int:
    """In how many shards an account was evicted."""
    async with place.redis_client() as client:
        return sum(
            [int(await client.hget(each.meta, "last_evict_seq") or 0) > 0 for each in place.shards]
        )


async def _trimmed(place: Place) -> None:
    """Wait until the streams have next to nothing left."""
    deadline = time.monotonic() + PATIENCE_S
    async with place.redis_client() as client:
        while max(left := [await client.xlen(shard.stream) for shard in place.shards]) > _LEFT_MAX:
            assert time.monotonic() < deadline, f"entries that are settled stay: {left}"
            await asyncio.sleep(POLL_S)


async def _count(place: Place, type_: str) -> int:
    async with place.postgres_connection() as connection:
        count: int = await connection.fetchval(
            "SELECT count(*) FROM journal WHERE type = $1", type_
        )
        return count


ROW = Row(
    name="soak",
    title="5 million transitions at the highest rate, on accounts by Zipf's law, trimmed, evicted"
    " and expired meanwhile",
    expected="every entry in the journal once, all invariants hold, reconcile finds no difference,"
    " memory is bounded",
    run=_run,
    count=20,
    limit_s=900.0,
    asked="5 million transitions",
)
