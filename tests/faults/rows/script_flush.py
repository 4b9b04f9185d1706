"""SCRIPT FLUSH: a Redis that does not know the scripts was never vetted, as far as anyone can tell.

Nothing is lost by it, so nothing may be thrown away either: all shards are vetted anew, found to be
whole, and opened under another generation. The entries that nobody had settled are settled then.
"""

from __future__ import annotations

from tests.faults.catalogue import Figures, Row, Run
from tests.faults.keepsake import Keepsake
from tests.faults.place import service
from tests.faults.under_load import under_load, vetted_anew


async def _run(run: Run) -> Figures:
    async with (
        service(run.directory) as place,
        place.client(retries=8) as client,
        under_load(run, place) as load,
    ):
        keepsake = await Keepsake.make(client)
        await load.more(run.rng.randint(50, run.sized(1500, 150)))
        before = await place.shard_rows()
        refused = load.history.counted("refused")

        load.note("SCRIPT FLUSH")
        await place.redis.command("SCRIPT", "FLUSH", run.rng.choice(("SYNC", "ASYNC")))
        closed_s = await vetted_anew(place, before)

        refused = load.history.counted("refused") - refused
        await load.more(run.sized(500, 100))
        await keepsake.assert_kept()
        verdict = await load.judged()
        nonces = {row["nonce"] for row in before} & {
            row["nonce"] for row in await place.shard_rows()
        }
        assert not nonces, f"a generation was opened again under its old nonce: {nonces}"
        incidents = await place.incidents()
        assert not incidents, f"nothing was lost, yet there are incidents: {incidents}"
        return {
            "closed_ms": round(closed_s * 1000),
            "refused_calls": refused,
            "acknowledged_calls": verdict.acknowledged,
        }


ROW = Row(
    name="script-flush",
    title="SCRIPT FLUSH under load",
    expected="closed, vetted anew under another generation; nothing lost, no incident",
    run=_run,
    count=20,
)
