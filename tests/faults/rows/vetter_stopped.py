"""A vetter is stopped (SIGSTOP) half way through a rebuild; another one finishes; it goes on.

Redis comes back empty, or with an older append-only file: every shard is rebuilt. The vetter stops
at one of its steps: most often before a delete, with the names of keys in hand that the other one
will have made anew. Postgres ends its session as the one vetter after 5 s, and the other one starts
over with another generation. All that the first one does when it goes on must be refused, by Redis
and by Postgres; what it wrote is told by the stores themselves (witness.py).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from holdfast import scripts
from holdfast.client import AsyncClient
from settlement.failpoints import VETTING_POINTS
from tests.faults.catalogue import Figures, Row, Run
from tests.faults.crew import ends, one_of_each, stopped, until_claims, until_rows
from tests.faults.keepsake import Keepsake
from tests.faults.place import Place, Program, service
from tests.faults.under_load import Background, under_load, vetted_anew
from tests.faults.witness import Witness, Write

_SHARDS = 4
# Steps that are done once for all shards; the others are done for each.
_ONCE = ("declared", "raised", "loaded")
# What only a vetting changes in a row of `shard`.
_VETTED = ("generation", "nonce", "state", "boot_run_id", "boot_replid")


async def _run(run: Run) -> Figures:
    older = not run.quick and run.rng.random() < 0.5
    point = "delete" if run.rng.random() < 0.5 else run.rng.choice(VETTING_POINTS)
    # An older file has keys to delete; of a shard that has none only that is noted.
    calls = 2 * _SHARDS if point == "delete" and older else _SHARDS
    turn = 1 if point in _ONCE else run.rng.randint(1, calls)
    async with (
        service(run.directory, shards=_SHARDS) as place,
        place.client(retries=8) as client,
        under_load(run, place, callers=run.sized(4, 3)) as load,
    ):
        keepsake = await Keepsake.make(client)
        witness = await Witness.of(place)
        vetter = await witness.add_worker(test_failpoint=f"{point}:{turn}:stop")
        await until_claims(place, vetter)
        await load.more(run.rng.randint(50, run.sized(500, 100)))
        if older:
            await _keep_aof(run, place, client)

        heir = place.workers[0]
        heir.pause()  # so that the other one is the vetter
        await (_put_back_aof(run, place, load) if older else _flush(place, load))
        await load.until(lambda: stopped(vetter), f"{vetter.name} is at {point}:{turn}")
        vetter.pause()
        load.note(f"{vetter.name} is stopped at {point}:{turn}")
        begun = await place.shard_rows()
        heir.resume()
        if run.quick:
            await _end_session(place)
        taken_over_s = await vetted_anew(place, begun)
        await load.more(run.sized(300, 100))

        async with witness.listening():
            resumed_at = datetime.now(UTC)
            load.note(f"{vetter.name} goes on")
            said = vetter.log_path.stat().st_size
            vetter.resume()
            await load.until(lambda: _failed(vetter, said), f"{vetter.name} gives its vetting up")
            await until_claims(place, vetter)
        late = await _late(witness, resumed_at, {row["nonce"] for row in begun})

        await place.open_again()
        await load.more(run.sized(300, 100))
        await keepsake.assert_kept()
        verdict = await load.judged(allow_lost=True)
        incidents = await place.incidents()
        assert sorted((each["kind"], each["shard"]) for each in incidents) == [
            ("rebuild", number) for number in range(_SHARDS)
        ], incidents
        report = await place.reconcile()
        assert report["exit_code"] == 0, report
        return late | {
            "fault": "older AOF" if older else "FLUSHALL",
            "stopped_at": f"{point}:{turn}",
            "taken_over_ms": round(taken_over_s * 1000),
            "lost_calls": verdict.lost,
            "acknowledged_calls": verdict.acknowledged,
        }


async def _keep_aof(run: Run, place: Place, client: AsyncClient) -> None:
    """Copy the append-only file; returns when every shard has settled more than is in the copy,
    which has entries that had not settled yet. Else it would be adopted."""
    place.redis.keep_aof(run.directory / "older")
    kept = await ends(place)
    for name in one_of_each(_SHARDS):
        await client.put_account(name)
    await until_rows(
        place,
        lambda rows: all(row["mark"] > kept[row["id"]][0] for row in rows),
        "every shard has settled more than is in the copy",
    )


async def _put_back_aof(run: Run, place: Place, load: Background) -> None:
    load.note("Redis is killed")
    await place.redis.kill()
    place.redis.put_back_aof(run.directory / "older")
    await place.redis.start()


async def _flush(place: Place, load: Background) -> None:
    load.note("FLUSHALL")
    await place.redis.command("FLUSHALL")


async def _end_session(place: Place) -> None:
    """End the session of the one vetter, as Postgres does after 5 s of silence."""
    async with place.postgres_connection() as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
        )


def _failed(vetter: Program, said: int) -> bool:
    """Whether it has said since that a vetting of its own failed."""
    with vetter.log_path.open("rb") as log:
        log.seek(said)
        return b'"vetting_failed"' in log.read()


async def _late(witness: Witness, resumed_at: datetime, nonces: set[str]) -> Figures:
    """What the vetter still tried under its generation: nothing of it had an effect."""
    tried = witness.of_generation(*nonces)
    tried += [call for call in witness.calls if call.words[0].upper() == "EVAL"]
    effects = [call for call in tried if call.wrote]
    assert not effects, f"it changed what another one has vetted: {effects[:5]}"
    writes = await witness.writes(resumed_at)
    vetted = [each for each in writes if _of_a_vetting(each)]
    assert not vetted, f"it wrote of a vetting that is over: {vetted[:5]}"
    again_at = next(each.at for each in writes if each.claims)
    rows = [each for each in writes if each.table == "journal" and each.at < again_at]
    assert not rows, f"it settled shards that were not its own: {rows[:5]}"
    deletes = {scripts.names(nonce)["delete"].decode() for nonce in nonces}
    return {
        "late_calls": len(tried),
        "late_deletes": sum(call.script in deletes for call in tried),
        "late_writes": len(effects) + len(vetted) + len(rows),
    }


def _of_a_vetting(write: Write) -> bool:
    if write.table == "shard":
        old, new = _vetted(write.old), _vetted(write.new)
        return old != new
    return write.table in ("quarantine", "incident")


def _vetted(row: Any) -> list[Any]:
    return [row[name] for name in _VETTED]


ROW = Row(
    name="vetter-stopped",
    title="a vetter is stopped half way through a rebuild, another one finishes it, the first goes"
    " on",
    expected="whatever the first one still does is refused: it deletes and writes nothing in either"
    " store; one incident a shard; nothing that was settled is lost",
    run=_run,
    count=30,
)
