"""FLUSHALL: Redis is empty, and knows nothing of shards that it has served.

What the journal has comes back: balances, open holds, idempotency keys. What was acknowledged and
not settled is gone; of each shard an incident says so. In half of the runs the worker is stopped
for a moment before, so that there is more of it.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.faults.catalogue import Figures, Row, Run
from tests.faults.keepsake import Keepsake
from tests.faults.place import Place, service
from tests.faults.under_load import under_load, vetted_anew


class _End(NamedTuple):
    """How far a shard had come when it was flushed."""

    seq: int
    settled: int


async def _run(run: Run) -> Figures:
    async with (
        service(run.directory) as place,
        place.client(retries=8) as client,
        under_load(run, place) as load,
    ):
        keepsake = await Keepsake.make(client)
        await load.more(run.rng.randint(50, run.sized(1500, 150)))
        before = await place.shard_rows()
        if run.rng.random() < 0.5:
            place.workers[0].pause()
            # Its leases outlive it by up to 2 s.
            await load.more(run.rng.randint(1, 100), timeout_s=5.0)
        load.note("FLUSHALL")
        ends = await _flush(place)
        place.workers[0].resume()
        closed_s = await vetted_anew(place, before)

        await load.more(run.sized(500, 100))
        await keepsake.assert_kept()
        lost, known = await _lost(place, ends)
        verdict = await load.judged(allow_lost=True)
        for number, entries in enumerate(lost):
            assert verdict.lost_by_shard[number] <= entries, (
                f"shard {number} lost {entries} entries: {verdict.text()}"
            )
        return {
            "closed_ms": round(closed_s * 1000),
            "lost_entries": sum(lost),
            "lost_entries_known_of": known,
            "lost_calls": verdict.lost,
            "acknowledged_calls": verdict.acknowledged,
        }


async def _flush(place: Place) -> list[_End]:
    """FLUSHALL, and where each shard was in that very moment."""
    async with place.redis_client() as client, client.pipeline(transaction=True) as pipeline:
        for shard in place.shards:
            pipeline.hmget(shard.meta, "seq", "settled")
        pipeline.flushall()
        *metas, _ = await pipeline.execute()
    return [_End(int(seq or 0), int(settled or 0)) for seq, settled in metas]


async def _lost(place: Place, ends: list[_End]) -> tuple[list[int], int]:
    """Entries that each shard lost, at most what was unsettled and no more than is reported; and
    how many of them the worker knew of."""
    incidents = await place.incidents()
    assert {each["kind"] for each in incidents} == {"rebuild"}, incidents
    told = {each["shard"]: each["details"] for each in incidents}
    assert sorted(told) == list(range(len(ends))), f"not of every shard: {incidents}"
    assert len(incidents) == len(ends), f"more than once: {incidents}"
    lost = []
    for number, end in enumerate(ends):
        details = told[number]
        lost.append(end.seq - details["mark"])
        assert details["mark"] >= end.settled, f"settled entries are lost: {details}, {end}"
        assert 0 <= lost[-1] <= details["lost_at_most"], f"more is lost than is told: {details}"
        assert details["lost_known"] <= lost[-1], f"less is lost than is told: {details}, {end}"
    return lost, sum(each["lost_known"] for each in told.values())


ROW = Row(
    name="flushall",
    title="FLUSHALL under load",
    expected="closed, rebuilt from the journal with open holds and keys; at most what was"
    " unsettled is lost, and an incident says so",
    run=_run,
    count=20,
)
