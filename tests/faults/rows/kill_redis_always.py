"""kill -9 of Valkey, which has synced what it acknowledged: it comes back with all of it.

It is killed wherever it happens to be, and started again within the life of its leases. It has them
still, and entries that nobody has settled; what it lacks is the scripts. So all shards are vetted,
found to be whole, and opened. In a quarter of the runs it is killed again while that goes on.
"""

from __future__ import annotations

import asyncio

from tests.faults.catalogue import Figures, Row, Run
from tests.faults.keepsake import Keepsake
from tests.faults.place import service
from tests.faults.restart import Restart
from tests.faults.under_load import under_load

_TAKING = ("commit", "partial", "charge")


async def _run(run: Run) -> Figures:
    async with (
        service(run.directory) as place,
        place.client(retries=8) as client,
        under_load(run, place) as load,
    ):
        keepsake = await Keepsake.make(client)
        restart, closed_s = Restart(place, load), 0.0
        for _ in range(run.times):
            await load.more(run.rng.randint(50, run.sized(1500, 150)))
            closed_s = max(closed_s, await _killed(run, restart))

        await keepsake.assert_kept()
        verdict = await load.judged()
        incidents = await place.incidents()
        assert not incidents, f"nothing was lost, yet there are incidents: {incidents}"
        report = await place.reconcile()
        assert report["exit_code"] == 0, report
        done = [each for each in load.history.operations if each.outcome == "ok"]
        return {
            "kills": restart.kills,
            "closed_at_most_ms": round(closed_s * 1000),
            "acknowledged_calls": verdict.acknowledged,
            "acknowledged_commits": sum(each.kind in _TAKING for each in done),
            "unknown_and_done": sum(each.maybe and each.replay for each in done),
        }


async def _killed(run: Run, restart: Restart) -> float:
    """Kill it, and go on when it serves again; the seconds that took."""
    # Whoever was answered before has his answer then. Its leases live for 2 s.
    await restart.kill(run.rng.uniform(0.05, 0.5))
    if run.rng.random() < 0.25:
        await asyncio.sleep(run.rng.uniform(0.0, 2.5))
        await restart.kill(run.rng.uniform(0.05, 0.5))
    closed_s = await restart.vetted()
    await restart.load.more(run.sized(500, 100))
    await restart.assert_closed_till_vetted()
    return closed_s


ROW = Row(
    name="kill-redis-always",
    title="kill −9 of Valkey under load, append-only file synced always",
    expected="0 acknowledged calls lost, 0 accepted between the restart and the end of the vetting;"
    " no incident",
    run=_run,
    count=200,
    times=5,
)
