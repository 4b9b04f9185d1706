"""The place of the fault suite itself: what goes by its proxies, and what a failed run leaves. That
what it breaks is broken, and what it mends serves again, is for the rows to show."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from holdfast.children import Child
from holdfast.client import Unavailable
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


async def settled(place: Place) -> None:
    """Wait until the journal has every entry."""

    async def nothing_waits() -> bool:
        async with place.redis_client() as client:
            ends = [await client.hget(shard.meta, "seq") for shard in place.shards]
        return [row["mark"] for row in await place.shard_rows()] == [int(end or 0) for end in ends]

    await until(nothing_waits)


def gone(pids: Iterable[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


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
