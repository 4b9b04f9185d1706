"""A worker kills itself at a point of its work, under load, and another one takes over.

The one that dies shares the shards with another, or has all of them; then the other one is started
after its death. Either takes over when the claims of the dead have run out.
"""

from __future__ import annotations

import signal
import time

from settlement.failpoints import POINTS
from tests.faults.catalogue import Figures, Row, Run
from tests.faults.crew import ANY_TURN, TURNS, claimed, ends, revetted
from tests.faults.keepsake import Keepsake
from tests.faults.place import Place, Program, service
from tests.faults.under_load import Background, under_load

# What is settled is not kept: streams are trimmed all the time, and nobody can read them again.
_SETTINGS = {"stream_retention_s": "0"}


async def _run(run: Run) -> Figures:
    async with (
        service(run.directory, settings=_SETTINGS) as place,
        place.client(retries=8) as client,
        under_load(run, place, callers=run.sized(8, 4)) as load,
    ):
        keepsake = await Keepsake.make(client)
        figures: dict[str, int] = {}
        for _ in range(run.times):
            for name, figure in (await _death(run, place, load)).items():
                figures[name] = max(figure, figures.get(name, 0))
            await load.more(run.sized(500, 100))

        await keepsake.assert_kept()
        verdict = await load.judged()
        assert not (incidents := await place.incidents()), f"nothing was lost: {incidents}"
        report = await place.reconcile()
        assert report["exit_code"] == 0, report
        return {
            **figures,
            "acknowledged_calls": verdict.acknowledged,
            "entries": verdict.entries,
        }


async def _death(run: Run, place: Place, load: Background) -> dict[str, int]:
    """A worker comes and dies, and its shards are taken over; how much of them was undone."""
    alone = run.rng.random() < 0.5
    turn = run.rng.randint(*TURNS.get(run.variant, ANY_TURN))
    heir = place.workers[0]
    before = await place.shard_rows()
    if alone:
        await heir.stop()
    doomed = await place.add_worker(test_failpoint=f"{run.variant}:{turn}")
    await load.until(lambda: not doomed.running, f"{run.variant} is reached for the {turn}. time")
    died = time.monotonic()
    assert doomed.code == -signal.SIGKILL, f"it ended with {doomed.code}: {doomed.log_tail()}"
    load.note(f"{doomed.name} died at {run.variant}:{turn}")
    left = await _left(place, doomed, run.variant)

    if alone:
        await heir.start()
    await place.open_again()
    taken_over_s = time.monotonic() - died
    rows = await place.shard_rows()
    assert claimed(rows, heir) == {row["id"] for row in rows}, rows
    assert not revetted(rows, before), f"a death has cost a generation: {rows}"
    return {**left, "taken_over_ms": round(taken_over_s * 1000)}


async def _left(place: Place, doomed: Program, point: str) -> dict[str, int]:
    """What a worker leaves undone in its shards, which nobody claims yet."""
    rows, redis = await place.shard_rows(), await ends(place)
    own = [row for row in rows if row["id"] in claimed(rows, doomed)]
    unsettled = sum(redis[row["id"]][0] - row["mark"] for row in own)
    untold = sum(row["mark"] - redis[row["id"]][1] for row in own)
    # A worker reads also while it has no shard.
    assert own or point == "read", f"it died before it had anything to do: {rows}"
    assert unsettled > 0 or point not in ("begin", "insert"), f"nothing was under way: {own}"
    assert untold > 0 or point != "commit_ok", f"nothing was committed: {own}, {redis}"
    return {"unsettled_at_death": unsettled, "settled_untold_at_death": untold}


ROW = Row(
    name="worker-killed",
    title="a worker dies at a point of its work under load, another one takes over",
    expected="every entry once in the journal, in one chain; no generation, no incident",
    run=_run,
    count=30,
    times=4,
    variants=POINTS,
    # At which nobody knows what became of it; the integration tests have every point.
    quick_variants=("commit_sent",),
)
