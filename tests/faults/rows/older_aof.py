"""An older append-only file is copied back: Redis knows less than was settled.

The copy is taken of a Redis that runs, as a backup would, so its end may be half a write. What was
settled since comes from the journal. In half of the runs the worker is stopped for a moment before
the end, so that entries are lost which were acknowledged and not settled.
"""

from __future__ import annotations

import asyncio
from itertools import count

from holdfast.client import AsyncClient
from holdfast.keys import shard_of
from tests.faults.catalogue import Figures, Row, Run
from tests.faults.keepsake import Keepsake
from tests.faults.place import Place, service
from tests.faults.restart import Restart, last_of, written
from tests.faults.under_load import under_load


async def _run(run: Run) -> Figures:
    async with (
        service(run.directory) as place,
        place.client(retries=8) as client,
        under_load(run, place) as load,
    ):
        early = await _keepsakes(client, "early", len(place.shards))
        await load.more(run.rng.randint(50, run.sized(1000, 150)))
        copy = run.directory / "older"
        place.redis.keep_aof(copy)
        await load.more(run.rng.randint(50, run.sized(500, 100)))
        late = await _keepsakes(client, "late", len(place.shards))
        marks = [row["mark"] for row in await place.shard_rows()]
        if run.rng.random() < 0.5:
            place.workers[0].pause()
            # Its leases outlive it by up to 2 s.
            await load.more(run.rng.randint(1, 100), timeout_s=5.0)

        load.note("killed")
        await place.redis.kill()
        place.workers[0].resume()
        ends = last_of(await written(place))
        place.redis.put_back_aof(copy)
        restart = await Restart.begin(place, load)
        closed_s = await restart.vetted()

        await load.more(run.sized(500, 100))
        for keepsake in (*early, *late):
            await keepsake.assert_kept()
        verdict = await load.judged(allow_lost=True)
        await restart.assert_closed_till_vetted()
        lost = await _lost(place, restart.seqs, marks, ends)
        for number, count in enumerate(lost):
            assert verdict.lost_by_shard[number] <= count, (
                f"shard {number} lost {count} entries: {verdict.text()}"
            )
        report = await place.reconcile()
        assert report["exit_code"] == 0, report
        return {
            "closed_ms": round(closed_s * 1000),
            "older_by_entries": sum(ends) - sum(restart.seqs),
            "lost_entries": sum(lost),
            "lost_calls": verdict.lost,
            "acknowledged_calls": verdict.acknowledged,
        }


async def _keepsakes(client: AsyncClient, name: str, shards: int) -> list[Keepsake]:
    """One on each shard, so that each has something that was settled."""
    names = (f"{name}-{number}" for number in count())
    on_shard: dict[int, str] = {}
    while len(on_shard) < shards:
        account = next(names)
        on_shard.setdefault(shard_of(account, shards), account)
    made = (Keepsake.make(client, account) for account in on_shard.values())
    return list(await asyncio.gather(*made))


async def _lost(place: Place, kept: list[int], marks: list[int], ends: list[int]) -> list[int]:
    """Entries that each shard lost: those that were not settled, and no more than is reported.

    `kept` is what the older file has, `marks` what was settled, `ends` what was written.
    """
    incidents = await place.incidents()
    told = {each["shard"]: each["details"] for each in incidents if each["kind"] == "rebuild"}
    assert len(incidents) == len(told) == len(ends), f"not once of every shard: {incidents}"
    lost = []
    for number, details in told.items():
        assert details["redis_seq"] == kept[number] < marks[number], f"{details}, kept {kept}"
        assert details["mark"] >= marks[number], f"settled entries are lost: {details}, {marks}"
        lost.append((number, ends[number] - details["mark"]))
        assert details["lost_known"] <= lost[-1][1] <= details["lost_at_most"], (
            f"{lost[-1][1]} are lost: {details}"
        )
    return [entries for _, entries in sorted(lost)]


ROW = Row(
    name="older-aof",
    title="an older append-only file is copied back under load",
    expected="0 calls accepted before the rebuild; all that was settled is there afterwards, and an"
    " incident says what is not",
    run=_run,
    count=50,
)
