"""A worker is stopped (SIGSTOP) for 1 to 10 s under load, and goes on when another has its work.

It is stopped at any moment, or at a point of its work: in a transaction, between the proof of life
and the lease, with entries in hand. Another worker takes over its shards meanwhile, after a short
stop because its claims are ended early, for they fence nothing; in a third of the runs that
happens under a new generation. Then all that the first one has in mind is stale, and it does not
know: until it claims shards again it writes no row, proves no life, and renews no lease.

What it wrote is told by the stores themselves (witness.py). A lease that it was granted before it
was stopped may still be set, as long as it ends when it would have ended then.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from settlement.failpoints import POINTS
from tests.faults.catalogue import Figures, Row, Run
from tests.faults.crew import ANY_TURN, TURNS, claimed, ends, is_of, revetted, stopped, until_claims
from tests.faults.keepsake import Keepsake
from tests.faults.place import PATIENCE_S, Place, Program, service
from tests.faults.program import POLL_S
from tests.faults.under_load import Background, under_load
from tests.faults.witness import Call, Witness, Write

# What is settled is not kept: streams are trimmed all the time, which has points of its own.
_SETTINGS = {"stream_retention_s": "0"}
_MOMENTS = ("any", *POINTS)
# Claims last 3 s, and who finds them looks twice a second: a shorter stop is over before.
_CLAIMS_S = 4.0
_LEASE = timedelta(seconds=2)


async def _run(run: Run) -> Figures:
    moment = run.rng.choice(_MOMENTS)
    stop_s = run.rng.uniform(1.0, run.sized(10, 2))
    flushed = run.rng.random() < 1 / 3
    async with (
        service(run.directory, settings=_SETTINGS) as place,
        place.client(retries=8) as client,
        under_load(run, place, callers=run.sized(4, 3)) as load,
    ):
        keepsake = await Keepsake.make(client)
        before = await place.shard_rows()
        witness = await Witness.of(place)
        worker = await _stop(run, place, witness, load, moment)
        stopped_at = datetime.now(UTC)
        own, known = claimed(await place.shard_rows(), worker), await ends(place)

        await _take_over(place, worker, flushed=flushed, early=stop_s < _CLAIMS_S)
        await _taken_over(place, load, before, own, known, stopped_at, flushed)
        rest_s = stop_s - (datetime.now(UTC) - stopped_at).total_seconds()
        await asyncio.sleep(max(rest_s, 0.0))  # it is to be stopped for so long
        async with witness.listening():
            resumed_at = datetime.now(UTC)
            load.note(f"{worker.name} goes on")
            worker.resume()
            await until_claims(place, worker, len(place.shards) // 2)
        opened_s = await place.open_again()

        stale = await _stale(witness, worker, stopped_at, resumed_at)
        await load.more(run.sized(300, 100))
        await keepsake.assert_kept()
        verdict = await load.judged()
        rows = await place.shard_rows()
        assert flushed or not revetted(rows, before), f"a stop has cost a generation: {rows}"
        assert not (incidents := await place.incidents()), f"nothing was lost: {incidents}"
        report = await place.reconcile()
        assert report["exit_code"] == 0, report
        return stale | {
            "stopped_at": moment,
            "stopped_ms": round((resumed_at - stopped_at).total_seconds() * 1000),
            "new_generation": int(flushed),
            "open_again_ms": round(opened_s * 1000),
            "acknowledged_calls": verdict.acknowledged,
        }


async def _stop(run: Run, place: Place, witness: Witness, load: Background, moment: str) -> Program:
    """Add a worker, and have it stopped when it has shards of its own and is at work on them."""
    half = len(place.shards) // 2
    if moment == "any":
        worker = await witness.add_worker()
        await until_claims(place, worker, half)
        await load.more(run.rng.randint(1, run.sized(500, 100)))
    else:
        turn = run.rng.randint(*TURNS.get(moment, ANY_TURN))
        worker = await witness.add_worker(test_failpoint=f"{moment}:{turn}:stop")
        await load.until(lambda: stopped(worker), f"{worker.name} is at {moment}:{turn}")
    worker.pause()
    load.note(f"{worker.name} is stopped at {moment}")
    return worker


async def _take_over(place: Place, worker: Program, *, flushed: bool, early: bool) -> None:
    if flushed:
        await place.redis.command("SCRIPT", "FLUSH")
    if early:
        async with place.postgres_connection() as connection:
            await connection.execute(
                "UPDATE shard SET claimed_until = '-infinity' WHERE claimed_by LIKE $1",
                f"%-{worker.pid}-%",
            )


async def _taken_over(
    place: Place,
    load: Background,
    before: list[dict[str, Any]],
    own: set[int],
    known: dict[int, tuple[int, int]],
    stopped_at: datetime,
    flushed: bool,
) -> None:
    """Wait until another worker has settled more than the stopped one can know of its shards, and
    has proved life for them."""
    spent = {number for number in own if known[number][0] > 0}  # the load has accounts there
    (heir,) = (each for each in place.workers if not each.paused)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        rows = await place.shard_rows()
        done = all(
            is_of(row["claimed_by"], heir)
            and row["state"] == "open"
            and row["proof_at"] > stopped_at
            and row["mark"] >= known[row["id"]][0] + (row["id"] in spent)
            for row in rows
        )
        if done and len(revetted(rows, before)) == (len(rows) if flushed else 0):
            return
        assert time.monotonic() < deadline, f"{own} not taken over: {rows}\n{place.log_tails()}"
        await load.more(1)
        await asyncio.sleep(POLL_S)


async def _stale(
    witness: Witness, worker: Program, stopped_at: datetime, resumed_at: datetime
) -> Figures:
    """What the worker did with what it had in mind: nothing that counts."""
    writes = await witness.writes(resumed_at)
    again_at = next(each.at for each in writes if each.claims)
    rows = [each for each in writes if each.table == "journal" and each.at < again_at]
    assert not rows, f"it settled shards that were not its own: {rows[:5]}"
    proofs = [each for each in writes if _proves(each) and each.at < again_at]
    assert not proofs, f"it proved life for shards that were not its own: {proofs[:5]}"
    leases = [
        (call, lease)
        for call in witness.calls
        for lease in _leases(call)
        if call.at < again_at and lease > stopped_at + _LEASE
    ]
    assert not leases, f"it renewed leases of shards that were not its own: {leases[:5]}"
    late = [call for call in witness.calls if call.script and call.at < again_at]
    return {
        "stale_rows": len(rows),
        "stale_leases": len(leases),
        "stale_calls": len(late),
        "refused_settles": worker.log_path.read_text(errors="replace").count("settle_fenced"),
    }


def _proves(write: Write) -> bool:
    return write.table == "shard" and write.new["proof_at"] != write.old["proof_at"]


def _leases(call: Call) -> list[datetime]:
    """Until when the leases last that a call has set."""
    return [
        call.at + timedelta(milliseconds=int(words[4]))
        for words in call.wrote
        if words[0] == "SET" and ":lease:" in words[1]
    ]


ROW = Row(
    name="worker-stopped",
    title="a worker is stopped for 1 to 10 s under load, another one takes over, the first goes on",
    expected="the first writes 0 rows and renews 0 leases until it claims shards again; every entry"
    " once; no incident",
    run=_run,
    count=50,
)
