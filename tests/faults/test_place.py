"""The place of the fault suite itself: what it breaks is broken, and what it mends serves again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from holdfast.children import Child
from holdfast.client import Unavailable
from holdfast.keys import shard_of
from holdfast.staging import temporary_directory
from tests.faults.place import PATIENCE_S, Place, RedisNode, service
from tests.faults.proxy import Rule
from tests.vetted import until


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that Postgres's user reaches: a place in it needs no other stage."""
    with temporary_directory("holdfast-faults-") as directory:
        yield directory / "place"


@asynccontextmanager
async def funded(directory: Path, **options: object) -> AsyncIterator[Place]:
    """A place with an account `acme` that has 1,000 microcredits."""
    async with service(directory, **options) as place:  # type: ignore[arg-type]
        async with place.client() as client:
            await client.put_account("acme")
            await client.grant("acme", 1_000, key="opening")
        yield place


async def reserve(place: Place, key: str, amount: int = 10) -> int:
    """A hold on `acme`; what is then available."""
    async with place.client() as client:
        return (await client.reserve("acme", amount, key=key)).available


async def available(place: Place) -> int:
    async with place.client() as client:
        return (await client.get_account("acme")).available


async def settled(place: Place) -> None:
    """Wait until the journal has every entry."""

    async def nothing_waits() -> bool:
        async with place.redis_client() as client:
            ends = [await client.hget(shard.meta, "seq") for shard in place.shards]
        return [row["mark"] for row in await place.shard_rows()] == [int(end or 0) for end in ends]

    await until(nothing_waits)


def gone(pids: Iterable[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


async def doctor(place: Place) -> list[dict[str, Any]]:
    """What `holdfast doctor` has checked."""
    checks: list[dict[str, Any]] = json.loads((await place.run("doctor", "--json")).out)["checks"]
    return checks


async def agrees(place: Place) -> None:
    await settled(place)
    report = await place.reconcile()
    assert (report["exit_code"], report["accounts"]) == (0, 1), report


async def test_every_call_goes_by_the_proxies(directory: Path) -> None:
    """Given a place, I expect it to serve, and to fail where a proxy fails."""
    async with funded(directory) as place:
        assert await reserve(place, "h1") == 990
        assert all(proxy.accepted for proxy in place.proxies.values())

        place.proxies["api-redis"].rule = Rule("refuse")
        place.proxies["api-redis"].cut_all()
        with pytest.raises(Unavailable):
            await reserve(place, "h2")
        place.proxies["api-redis"].rule = Rule()
        await place.open_again()
        assert await reserve(place, "h2") == 980
        await agrees(place)
        assert await place.incidents() == []
    assert not (directory / "postgres").exists()


async def test_programs_are_killed_paused_and_started_again(directory: Path) -> None:
    """Given a stopped worker, I expect another one to take over, and to die where it is told to."""
    async with funded(directory) as place:
        (api,), (worker,) = place.apis, place.workers
        await api.kill()
        assert (api.running, api.code) == (False, -signal.SIGKILL)
        await api.start()
        await api.ready()

        worker.pause()
        other = await place.add_worker(test_failpoint="lease:1")
        assert await other.ended() == -signal.SIGKILL
        assert worker.running and worker.paused
        worker.resume()
        await place.open_again()
        assert await reserve(place, "h1") == 990
        await worker.stop()
        assert worker.code == 0
        await agrees(place)


async def test_redis_is_killed_and_gets_an_older_file(directory: Path) -> None:
    """Given a Redis whose file is put back as it was before a settled hold, I expect the hold back
    from the journal."""
    async with funded(directory) as place:
        await settled(place)
        place.redis.keep_aof(directory / "kept")
        assert await reserve(place, "h1") == 990
        await settled(place)

        await place.redis.kill()
        assert not place.redis.running
        assert b"h1" in place.redis.aof_files()[-1].read_bytes()
        place.redis.put_back_aof(directory / "kept")
        files = place.redis.aof_files()
        assert [file.name.rpartition(".")[2] for file in files] == ["rdb", "aof"]
        assert b"h1" not in files[-1].read_bytes()
        await place.redis.start()
        await place.open_again()
        assert [row["generation"] for row in await place.shard_rows()] == [2] * 4
        assert await available(place) == 990
        assert await reserve(place, "h2") == 980
        await agrees(place)
        assert [incident["kind"] for incident in await place.incidents()] == ["rebuild"]


async def test_postgres_is_paused_killed_and_taken_back(directory: Path) -> None:
    async with funded(directory) as place:
        await settled(place)
        await place.postgres.keep_base(directory / "base")
        assert await reserve(place, "h1") == 990
        await settled(place)

        place.postgres.pause()
        with pytest.raises((OSError, TimeoutError)):
            async with asyncio.timeout(0.5):
                await place.shard_rows()
        place.postgres.resume()
        await place.open_again()

        await place.postgres.kill()
        await place.postgres.start()
        await place.open_again()
        async with place.postgres_connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM journal WHERE hold = 'h1'") == 1

        for program in (*place.apis, *place.workers):
            await program.kill()
        await place.postgres.stop("immediate")
        await place.postgres.put_back_base(directory / "base")
        await place.postgres.start()
        async with place.postgres_connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM journal WHERE hold = 'h1'") == 0
        for program in (*place.apis, *place.workers):
            await program.start()
        await place.open_again()
        assert await available(place) == 990
        await agrees(place)


async def test_a_replica_follows_lags_and_is_promoted(directory: Path) -> None:
    """Given a replica that is cut off before a hold and promoted, I expect a service that has it
    from the journal, while the old primary is alive."""
    async with funded(directory, replicas=1) as place:
        old, (replica,) = place.redis, place.replicas
        assert {check["name"] for check in await doctor(place) if check["level"] == "fail"} == set()
        await replica.followed(old)

        place.proxies["replica-redis"].rule = Rule("half-open")
        await place.proxies["replica-redis"].rule.struck.wait()
        assert await reserve(place, "h1") == 990
        await settled(place)
        acct = place.shards[shard_of("acme", 4)].acct("acme")
        async with old.client() as there, replica.client() as here:
            assert await there.hget(acct, "available") == b"990"
            assert await here.hget(acct, "available") == b"1000"

        await replica.promote()
        place.turn_to(replica)
        assert old.running and place.redis is replica and place.replicas == [old]
        await place.open_again()
        assert await available(place) == 990
        await agrees(place)

        await old.follow(replica)
        await old.followed(replica)


async def test_a_moved_clock_closes_the_shards(directory: Path) -> None:
    async with funded(directory, test_clock=True) as place:
        await place.move_clock(3_600_000)

        async def noticed() -> bool:
            return [found["kind"] for found in await place.incidents()] == ["clock"]

        await until(noticed)
        with pytest.raises(AssertionError, match="not open within"):
            await place.open_again(0.1)
        await place.move_clock(0)
        await place.open_again()


async def test_a_failure_keeps_the_data_and_no_program(directory: Path) -> None:
    parts: list[int] = []
    with pytest.raises(ZeroDivisionError):
        async with funded(directory) as place:
            parts += [place.redis.pid, place.postgres.pid, place.apis[0].pid, place.workers[0].pid]
            place.redis.pause()
            place.postgres.pause()
            place.workers[0].pause()
            raise ZeroDivisionError
    assert gone(parts)
    assert (directory / "postgres").exists() and (directory / "worker-0.log").read_text()
    copy = RedisNode(directory / "redis")
    await copy.start()
    try:
        assert await copy.command("DBSIZE")
    finally:
        await copy.kill()


ABANDONED = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.faults.place import service

async def work():
    async with service(Path(sys.argv[1])) as place:
        place.redis.pause()
        place.postgres.pause()
        parts = (place.redis, place.postgres, place.apis[0], place.workers[0])
        print(*(part.pid for part in parts), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(work())
"""


async def test_paused_and_running_programs_die_with_a_killed_test(directory: Path) -> None:
    log = directory.with_name("abandoned.log")
    test = Child(
        "test",
        (sys.executable, "-c", ABANDONED, str(directory)),
        log_path=log,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TMPDIR": str(directory.parent),  # where it leaves its template
        },
    )
    async with asyncio.timeout(PATIENCE_S):
        code = await asyncio.wrap_future(test.exited)
    assert code == -signal.SIGKILL, test.log_tail()
    pids = [int(word) for word in test.log_tail().splitlines()[-1].split()]
    assert len(pids) == 4
    await until(lambda: gone(pids))
