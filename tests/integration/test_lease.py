"""Leases on real servers: who may serve, for how long, and what ends it."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast.embedded import Postgres, Valkey
from settlement.clocks import Span, skew_ms
from settlement.lease import Leases
from settlement.vetting import Vetting
from tests.stack import Refused, Stack
from tests.vetted import (
    claim,
    cluster_of_two,
    incidents,
    other_worker,
    running,
    shard,
    until,
    vet,
)

SHARDS = 4


@pytest.fixture
async def stack(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    """Vetted, claimed, and without any lease."""
    url = postgres_server.url
    async with Stack(valkey_server.url, url, shards=SHARDS, vet=False, test_clock=True) as stack:
        await claim(stack)
        await vet(stack)
        yield stack


async def ttl_ms(stack: Stack, number: int, which: str) -> int:
    """What is left of a lease; below 0: there is none."""
    keys = stack.shards.keys[number]
    key = keys.lease_new if which == "new" else keys.lease_finish
    left: int = await stack.shards.node_of(number).call("PTTL", key)
    return left


async def leased(stack: Stack, which: str, number: int = 0) -> bool:
    return await ttl_ms(stack, number, which) > 0


async def forget_leases(stack: Stack) -> None:
    for keys in stack.shards.keys:
        await stack.command("DEL", keys.lease_new, keys.lease_finish)
        # When it would have ended, or the next round takes it for a clock that was ahead.
        await stack.command("HDEL", keys.meta, "lent_ms")


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """SIGSTOP for the time of the block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def processes_of(server: Postgres) -> list[int]:
    """A Postgres and its backends."""
    found = subprocess.run(("pgrep", "-P", str(server.pid)), capture_output=True, check=True)
    return [server.pid, *map(int, found.stdout.split())]


# One round


async def test_proof_of_life_lends_both_leases_for_two_seconds(stack: Stack) -> None:
    await Leases(stack.state).round()

    for number in range(SHARDS):
        row = await shard(stack, number)
        meta = await stack.meta(number)
        for which in ("new", "finish"):
            assert 0 < await ttl_ms(stack, number, which) <= 2000
        assert await stack.command("GET", stack.shards.keys[number].lease_new) == (
            row["nonce"].encode()
        )
        proof_ms = row["proof_at"].timestamp() * 1000
        assert proof_ms - 1 <= int(meta["proof_ms"]) <= proof_ms + 1000
        assert int(meta["clock_ms"]) > 0
    await stack.open("acme", grant=100)


async def test_shard_of_another_worker_is_not_renewed(stack: Stack) -> None:
    await stack.pool.execute("UPDATE shard SET claimed_by = 'other' WHERE id = 1")
    leases = Leases(stack.state)  # this worker was stopped for 10 s, and does not know yet
    await leases.round()

    assert not await leased(stack, "finish", 1)
    assert (await shard(stack, 1))["proof_at"] is None
    assert await leased(stack, "new", 0)


@pytest.mark.parametrize(
    "change", ["state = 'vetting'", "nonce = repeat('f', 32)"], ids=["vetting", "nonce"]
)
async def test_shard_that_another_worker_vets_is_not_renewed(stack: Stack, change: str) -> None:
    await stack.pool.execute(f"UPDATE shard SET {change} WHERE id = 1")
    await Leases(stack.state).round()

    assert not await leased(stack, "finish", 1)
    assert (await shard(stack, 1))["proof_at"] is None


async def test_worker_that_was_stopped_behind_its_proof_renews_nothing(stack: Stack) -> None:
    class StoppedBehindItsProof(Leases):
        async def _with_postgres(self, proof, taken) -> None:  # type: ignore[no-untyped-def]
            await asyncio.sleep(2.1)  # longer than a lease, which counts from before the proof
            await super()._with_postgres(proof, taken)

    await StoppedBehindItsProof(stack.state).round()

    assert (await shard(stack, 0))["proof_at"] is not None
    for number in range(SHARDS):
        assert not await leased(stack, "finish", number)
    assert not stack.state.doubts


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (("SCRIPT", "FLUSH"), "NOSCRIPT"),
        (("FLUSHALL",), "FENCED"),
    ],
)
async def test_redis_that_is_not_what_was_vetted_is_doubted(
    server_dir: Path, postgres_server: Postgres, damage: tuple[str, ...], reason: str
) -> None:
    with Valkey.start(server_dir / "valkey") as server:
        async with Stack(server.url, postgres_server.url, shards=2, vet=False) as stack:
            await claim(stack)
            await vet(stack)
            await stack.command(*damage)
            await Leases(stack.state).round()

            assert stack.state.doubts == {0: reason, 1: reason}
            assert stack.state.doubted.is_set()


async def test_other_boot_than_the_vetted_one_is_doubted(stack: Stack) -> None:
    await stack.pool.execute("UPDATE shard SET boot_run_id = repeat('a', 40) WHERE id = 2")
    await stack.state.refresh()
    await Leases(stack.state).round()

    assert stack.state.doubts == {2: "another boot"}
    assert not await leased(stack, "finish", 2)


async def test_redis_that_is_nearly_full_takes_on_nothing_new(stack: Stack) -> None:
    info = await stack.command("INFO", "memory")
    used = int(info.split(b"used_memory:")[1].split(b"\r")[0])
    leases = Leases(stack.state)
    try:
        await stack.command("CONFIG", "SET", "maxmemory", int(used / 0.8))
        await leases.round()
        assert not await leased(stack, "new")
        assert await leased(stack, "finish")
        await stack.command("CONFIG", "SET", "maxmemory", int(used / 0.5))
        await leases.round()
        assert await leased(stack, "new")
    finally:
        await stack.command("CONFIG", "SET", "maxmemory", 0)


# Clocks


@pytest.mark.parametrize("offset_ms", [3_600_000, -3_600_000])
async def test_clock_that_is_off_closes_its_shard_until_it_agrees(
    stack: Stack, offset_ms: int
) -> None:
    leases = Leases(stack.state)
    meta = stack.shards.keys[1].meta
    await stack.command("HSET", meta, "test_offset_ms", offset_ms)
    for _ in range(3):
        await leases.round()

    assert not leases.sane(1)
    assert leases.sane(0)
    assert not await leased(stack, "finish", 1)
    assert await leased(stack, "new", 0)
    assert "clock_ms" not in await stack.meta(1)  # it does not freeze time
    (incident,) = await incidents(stack, "clock")
    assert ("ahead of" if offset_ms > 0 else "behind") in incident["summary"]
    assert incident["closed_at"] is None

    await stack.command("HDEL", meta, "test_offset_ms")
    await leases.round()

    assert leases.sane(1)
    # What was ahead has ended records early: it is rebuilt first (test_clock_ahead.py).
    assert stack.state.doubts == ({1: "its clock was ahead"} if offset_ms > 0 else {})
    assert await leased(stack, "new", 1) is (offset_ms < 0)
    assert (await incidents(stack, "clock"))[0]["closed_by"] == "worker"


async def test_incident_of_a_worker_that_is_gone_is_closed_by_the_next(stack: Stack) -> None:
    meta = stack.shards.keys[1].meta
    await stack.command("HSET", meta, "test_offset_ms", 5000)
    await Leases(stack.state).round()
    await stack.command("HDEL", meta, "test_offset_ms")
    await Leases(stack.state).round()

    (incident,) = await incidents(stack, "clock")
    assert incident["closed_by"] == "worker"


async def test_clock_that_was_set_back_closes_its_shard(stack: Stack) -> None:
    leases = Leases(stack.state)
    await leases.round()
    await forget_leases(stack)
    await stack.command("HINCRBY", stack.shards.keys[1].meta, "clock_ms", 60_000)
    await leases.round()
    await leases.round()

    assert not leases.sane(1)
    assert not await leased(stack, "finish", 1)
    assert await leased(stack, "new", 0)
    (incident,) = await incidents(stack, "clock")
    assert "shard 1 has recorded a later time" in incident["summary"]
    assert not stack.state.doubts


@pytest.mark.parametrize(
    ("reading_ms", "clock_ms", "clock", "skew"),
    [
        (100_000, 100_050, Span(10.0, 10.1), 0),  # 50 ms later, by both
        (100_000, 100_000, Span(10.0, 10.0), 0),
        (102_000, 100_050, Span(10.05, 10.05), 2000),  # ahead
        (98_000, 100_050, Span(10.05, 10.05), -2000),  # behind
        (100_000, 101_500, Span(10.0, 12.0), 0),  # told within 2 s: nobody knows
        (100_000, 105_000, Span(10.0, 12.0), -3000),  # more than the 2 s can explain
    ],
)
def test_clocks_are_apart_by_what_no_delay_explains(
    reading_ms: int, clock_ms: int, clock: Span, skew: float
) -> None:
    assert skew_ms(reading_ms, Span(10.0, 10.0), clock_ms, clock) == pytest.approx(skew)


# Postgres away


@pytest.fixture
async def own_postgres(
    server_dir: Path, valkey_server: Valkey
) -> AsyncIterator[tuple[Stack, Postgres]]:
    """A stack on a Postgres of its own, to be killed."""
    with Postgres.start(server_dir / "postgres", fsync=False) as postgres:
        async with Stack(valkey_server.url, postgres.url, shards=2, vet=False) as stack:
            await claim(stack)
            await vet(stack)
            yield stack, postgres
            if not postgres.running:
                await asyncio.to_thread(postgres.restart)


async def new_lease_ended(stack: Stack) -> bool:
    return not await leased(stack, "new")


async def renewed(stack: Stack, which: str, number: int = 0) -> bool:
    """Whether a lease is longer than it was a moment ago."""
    before = await ttl_ms(stack, number, which)
    await asyncio.sleep(0.05)
    return await ttl_ms(stack, number, which) > before > 0


@pytest.mark.parametrize("how", ["killed", "hung"])
async def test_without_postgres_nothing_new_is_taken_on_and_work_is_finished(
    own_postgres: tuple[Stack, Postgres], how: str
) -> None:
    stack, postgres = own_postgres
    leases = Leases(stack.state)
    async with running(leases.run()):
        await until(lambda: leased(stack, "new"))
        await stack.open("acme", grant=100)
        await stack.reserve("acme", "h1", 40)
        if how == "killed":
            await asyncio.to_thread(postgres.kill)
            await until(lambda: new_lease_ended(stack))
            await until(lambda: renewed(stack, "finish"))
            with pytest.raises(Refused, match="NO_NEW"):
                await stack.reserve("acme", "h2", 40)
            await stack.commit("acme", "h1", 13)
            # A worker that has proven nothing itself lends nothing.
            other = Leases(other_worker(stack))
            for row, known in zip(other.state.rows, stack.state.rows, strict=True):
                row.nonce, row.state, row.claimed = known.nonce, "open", True
                row.run_id, row.replid = known.run_id, known.replid
            other_round = asyncio.create_task(other.round())
            await other_round
            assert not other.seen
            await asyncio.to_thread(postgres.restart)
        else:
            with stopped(*processes_of(postgres)):
                await until(lambda: new_lease_ended(stack))
                await until(lambda: renewed(stack, "finish"))
                await stack.commit("acme", "h1", 13)
        await until(lambda: leased(stack, "new"))
        await stack.reserve("acme", "h2", 40)


async def test_finishing_has_an_end_or_does_not_begin(
    server_dir: Path, valkey_server: Valkey
) -> None:
    with Postgres.start(server_dir / "postgres", fsync=False) as postgres:
        async with Stack(
            valkey_server.url, postgres.url, shards=2, vet=False, finish_grace_s=0
        ) as stack:
            await claim(stack)
            await vet(stack)
            leases = Leases(stack.state)
            async with running(leases.run()):
                await until(lambda: leased(stack, "new"))
                await asyncio.to_thread(postgres.kill)

                async def ended() -> bool:
                    return not await leased(stack, "finish")

                await until(ended)
            await asyncio.to_thread(postgres.restart)


async def test_proof_that_takes_longer_is_waited_for_with_the_time_it_was_begun_with(
    stack: Stack,
) -> None:
    leases = Leases(stack.state)
    async with stack.pool.acquire() as conn:
        keeps_the_row = conn.transaction()
        await keeps_the_row.start()
        await conn.execute("SELECT FROM shard WHERE id = 0 FOR UPDATE")
        await leases.round()
        assert not await leased(stack, "new")
        await keeps_the_row.rollback()

    await leases.round()

    proven_at = (await shard(stack, 0))["proof_at"].timestamp() * 1000
    assert await leased(stack, "new")
    await leases.round()
    assert (await shard(stack, 0))["proof_at"].timestamp() * 1000 > proven_at


# A node that hangs


async def test_node_that_hangs_holds_up_nobody_else(
    server_dir: Path, postgres_server: Postgres
) -> None:
    with cluster_of_two(server_dir) as servers:
        async with Stack(servers[0].url, postgres_server.url, shards=8, vet=False) as stack:
            await claim(stack)
            await vet(stack)
            homes = [stack.shards.node_of(n).address.port for n in range(8)]
            here, there = homes.index(servers[0].port), homes.index(servers[1].port)
            leases, vetting = Leases(stack.state), Vetting(stack.state)
            async with running(leases.run(), vetting.run()):
                await until(lambda: leased(stack, "new", here))
                await until(lambda: leased(stack, "new", there))
                nonce = stack.state.rows[here].nonce
                with stopped(servers[1].pid):
                    for _ in range(4):  # 2 s at least: a lease that is not renewed runs out
                        await until(lambda: renewed(stack, "new", here))
                await until(lambda: leased(stack, "new", there))
            assert stack.state.rows[here].nonce == nonce
