"""kill -9 of a Valkey that syncs every second, on a machine that loses what was not synced.

The kill alone loses next to nothing, for the system still has what was written. So the file is cut
then, at any byte of what was written in the last moments, as a power cut would leave it. In half of
the runs Postgres hangs meanwhile, so that nothing of it is settled and the loss is a large one.

Where the journal is ahead of what came back, the shard is rebuilt, and an incident says how much is
gone at most. Where it is not, the shard goes on from what there is, and no store knows what it had:
an incident says how much that is at most, and how much a worker had seen of it (`lost_tail`, or one
`unsynced_restart` for all shards of which none had). So every shard is told of, exactly once.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from holdfast.client import AsyncClient
from settlement.rebuild import UNSETTLED_MAX
from tests.faults.append_only import Appended
from tests.faults.catalogue import Figures, Row, Run
from tests.faults.history import History
from tests.faults.keepsake import Keepsake
from tests.faults.loss import losses_told
from tests.faults.place import Place, service
from tests.faults.power_cut import PowerCut
from tests.faults.restart import Restart
from tests.faults.under_load import under_load

# Redis syncs every second, and puts a write off for a second more while a sync goes on; the leases
# that were there when Postgres hung last as long.
_UNSYNCED_MAX_S = 1.5


async def _run(run: Run) -> Figures:
    async with (
        service(run.directory, appendfsync="everysec") as place,
        place.client(retries=8) as client,
        under_load(run, place) as load,
    ):
        keepsake = await Keepsake.make(client)
        await _assert_promised(client)
        await load.more(run.rng.randint(50, run.sized(1000, 150)))
        hangs = run.rng.random() < 0.5
        if hangs:
            place.postgres.pause()
        synced = PowerCut.synced(place.redis)
        await asyncio.sleep(run.rng.uniform(0.05, _UNSYNCED_MAX_S))

        load.note("killed")
        await place.redis.kill()
        if hangs:
            place.postgres.resume()
        cut = PowerCut.of(place.redis, place.shards, synced, run.rng)
        restart = await Restart.begin(place, load)
        closed_s = await restart.vetted()

        await load.more(run.sized(500, 100))
        await keepsake.assert_kept()
        verdict = await load.judged(allow_lost=True)
        await restart.assert_closed_till_vetted()
        loss = await _loss(place, cut, restart.seqs)
        for shard, gone in enumerate(loss.gone):
            acknowledged = _acknowledged(load.history, gone)
            assert verdict.lost_by_shard[shard] == acknowledged, (
                f"shard {shard} lost {acknowledged} acknowledged calls of {len(gone)} entries:"
                f" {verdict.text()}"
            )
            assert len(gone) <= cut.unsynced[shard], f"what was synced is lost: {gone}"
        report = await place.reconcile()
        assert report["exit_code"] == 0, report
        return {
            "closed_ms": round(closed_s * 1000),
            "cut_bytes": cut.length,
            "cut_entries": sum(cut.unsynced),
            "lost_entries": sum(map(len, loss.gone)),
            "lost_entries_known_of": loss.known,
            "lost_calls": verdict.lost,
            "acknowledged_calls": verdict.acknowledged,
        }


async def _assert_promised(client: AsyncClient) -> None:
    """Whatever is asked for, this Redis promises no more than it keeps by itself."""
    await client.put_account("promise")
    for wanted in (None, "memory", "local"):
        done = await client.grant("promise", 1, source="promo", durability=wanted)
        assert done.durability == "memory", done


class _Loss(NamedTuple):
    """What became of the entries that were cut off."""

    gone: list[list[Appended]]
    """By shard: those that the journal does not have either."""
    known: int
    """Of them, those that incidents know of."""


async def _loss(place: Place, cut: PowerCut, kept: list[int]) -> _Loss:
    """Compare what was written with what came back, and with what incidents say of it."""
    losses = list(losses_told(await place.incidents()))
    told = dict(losses)
    assert sorted(shard for shard, _ in losses) == list(range(len(kept))), f"not each: {losses}"
    gone, known = [], 0
    for shard, appended in enumerate(cut.written):
        details = told[shard]
        # Behind the journal's mark where it was rebuilt, else behind what came back.
        base, least = max(details["mark"], kept[shard]), details["lost_known"]
        gone.append([entry for entry in appended if entry.seq > base])
        where = f"shard {shard} lost {len(gone[-1])} behind {base}, it kept {kept[shard]}:"
        assert details["redis_seq"] == kept[shard], f"{where} {details}"
        assert least >= cut.seen[shard] - base, f"{where} seen {cut.seen[shard]}, {details}"
        assert least <= len(gone[-1]) <= details["lost_at_most"] <= UNSETTLED_MAX, (
            f"{where} {details}"
        )
        known += least
    return _Loss(gone, known)


def _acknowledged(history: History, gone: list[Appended]) -> int:
    """How many calls were told that what is gone was done."""
    keys = {entry.read().get("key") for entry in gone}
    ends = [note.at_ns for note in history.notes if note.text == "redis starts"]
    return sum(
        operation.key in keys
        and operation.outcome == "ok"
        and (operation.answered_ns or 0) < ends[0]
        for operation in history.operations
    )


ROW = Row(
    name="kill-redis-everysec",
    title="kill −9 of Valkey under load, append-only file synced every second, and cut at any byte"
    " of what was not synced",
    expected="answers promise `memory` at most; exactly what was cut and not settled is lost;"
    " incidents bound the loss of every shard, and count what a worker had seen of it",
    run=_run,
    count=50,
)
