"""Postgres goes away under load: stopped, killed, or back as it was some time ago.

New spending ends with its lease; what is held is finished on, for as long as the finishing window
lasts, which a quarter of the runs outlast. When Postgres is back, what it has missed is settled
from the streams.

Rolled back means that an older copy of its data is put in the place of the data. What it had
settled since is settled again, by the streams. In half of these runs some streams do not reach so
far back: their shards are stopped, and keep what they have, until the right data is there again.
"""

from __future__ import annotations

import asyncio
import time

from tests.faults.catalogue import Figures, Row, Run
from tests.faults.crew import ends, revetted
from tests.faults.finisher import ACCOUNT, CLOCKS_S, LEASE_S, Finisher
from tests.faults.keepsake import Keepsake
from tests.faults.place import PATIENCE_S, Place, service
from tests.faults.program import POLL_S
from tests.faults.refusal import until_refused
from tests.faults.rolled_back import RolledBack
from tests.faults.stall import Stall, stalls
from tests.faults.under_load import Background, under_load

_ROUND_S = 0.5
# Twice what closing and the calls that are finished meanwhile take, so that it ends after them.
_SHORT_WINDOW_S = 6


async def _run(run: Run) -> Figures:
    outlasted = not run.quick and run.variant != "rolled-back" and run.rng.random() < 0.25
    settings = {"finish_grace_s": str(_SHORT_WINDOW_S)} if outlasted else None
    async with (
        service(run.directory, settings=settings) as place,
        place.client() as client,
        place.client(retries=8) as patient,
        under_load(run, place, callers=run.sized(4, 3)) as load,
    ):
        keepsake = await Keepsake.make(patient)
        finisher = await Finisher.make(patient, client)
        await load.more(run.rng.randint(50, run.sized(1000, 150)))
        fault = RolledBack(run, place, load) if run.variant == "rolled-back" else None
        if fault is not None:
            await fault.keep(patient)
        before = await place.shard_rows()

        async with stalls() as stall:
            figures, gone_ns = await _go_away(run, place, load)
            figures |= await _closed(place, load, finisher, stall, gone_ns)
            if outlasted:
                finishing_s = await finisher.until_over(stall, gone_ns, _SHORT_WINDOW_S)
                figures |= {"finishing_for_ms": round(finishing_s * 1000)}
        missed = sum(seq - settled for seq, settled in (await ends(place)).values())
        if fault is None:
            await place.postgres.start()
            figures |= {"reopened_ms": round(1000 * await place.open_again())}
            assert not revetted(await place.shard_rows(), before), "it has cost a generation"
            assert not (told := await place.incidents()), f"nothing was lost: {told}"
        else:
            figures |= await fault.put_back()

        await load.more(run.sized(300, 100))
        await keepsake.assert_kept()
        verdict = await load.judged()
        report = await place.reconcile()
        assert report["exit_code"] == 0, report
        return figures | {"refilled_entries": missed, "acknowledged_calls": verdict.acknowledged}


async def _go_away(run: Run, place: Place, load: Background) -> tuple[Figures, int]:
    """End Postgres; when it was gone for certain, by monotonic_ns."""
    began_ns = load.note("Postgres goes away")
    if run.variant == "kill" or (run.variant == "rolled-back" and run.rng.random() < 0.5):
        await place.postgres.kill()
    else:
        await place.postgres.stop("fast")
    gone_ns = load.note("Postgres is gone")
    return {"ending_ms": (gone_ns - began_ns) // 1_000_000}, gone_ns


async def _closed(
    place: Place, load: Background, finisher: Finisher, stall: Stall, gone_ns: int
) -> Figures:
    """Wait until new spending is closed, while what is held is finished; then for refusals."""
    closed = asyncio.create_task(_leases_over(place))
    try:
        while not closed.done():
            await finisher.finish(stall)
        await closed
    finally:
        closed.cancel()
    await until_refused(lambda: finisher.client.charge(ACCOUNT, 1), "lease")
    await load.refused(100)
    for _ in range(20):
        await finisher.finish(stall)

    # A call that was asked once was decided after it was asked; no lease of a proof that Postgres
    # took lasts longer than 2 s from the TIME before it.
    spent = [
        each
        for each in load.history.operations
        if each.kind in ("reserve", "charge")
        and (each.outcome, each.attempts, each.replay) == ("ok", 1, False)
    ]
    asked_s = (max(each.asked_ns for each in spent) - gone_ns) / 1e9
    answered_s = (max(each.answered_ns or 0 for each in spent) - gone_ns) / 1e9
    assert asked_s <= LEASE_S + CLOCKS_S, f"accepted {asked_s:.3f} s after Postgres was gone"
    bound_s = LEASE_S + _ROUND_S + stall.worst_s
    assert answered_s <= bound_s, f"open for {answered_s:.3f} s, not {bound_s:.3f} s at most"
    return {
        "closed_after_ms": round(answered_s * 1000),
        "finished_meanwhile": finisher.finished,
        "finish_refused": finisher.refused,
        "worst_stall_ms": round(stall.worst_s * 1000),
    }


async def _leases_over(place: Place) -> None:
    """Wait until no shard has a lease for new spending."""
    deadline = time.monotonic() + PATIENCE_S
    async with place.redis_client() as client:
        while await client.exists(*(shard.lease_new for shard in place.shards)):
            assert time.monotonic() < deadline, "leases go on without Postgres"
            await asyncio.sleep(POLL_S)


ROW = Row(
    name="postgres",
    title="Postgres is stopped, killed, or back as it was some time ago, under load",
    expected="no new spending later than 2.5 s after it was gone, finishing goes on within its"
    " window; back: open again, refilled from the streams, nothing lost; rolled back: an incident a"
    " shard, settled again and never rebuilt, stopped where the stream does not reach",
    run=_run,
    count=20,
    variants=("stop", "kill", "rolled-back"),
    quick_variants=("kill", "rolled-back"),
)
