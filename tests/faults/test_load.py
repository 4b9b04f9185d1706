"""The load and the check on a real service that is being broken: what is unknown becomes known, and
what is lost is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from holdfast.staging import temporary_directory
from tests.faults.checker import check, check_journal
from tests.faults.history import History, Tally
from tests.faults.load import Load, Reply, code_of, load
from tests.faults.place import PATIENCE_S, Place, service
from tests.faults.proxy import Rule
from tests.vetted import until

# A reply that was dropped is missed after this; the connection is given up after twice as long.
SETTINGS = {"call_timeout_ms": "200"}


@pytest.fixture
def directory() -> Iterator[Path]:
    with temporary_directory("holdfast-faults-") as directory:
        yield directory / "place"


@asynccontextmanager
async def running(load: Load) -> AsyncIterator[None]:
    """A load that goes on while the block does."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run(callers=16, stop=stop))
        try:
            yield
        finally:
            stop.set()


async def more(load: Load, operations: int) -> None:
    """Until so many more operations were decided."""
    wanted = load.decided + operations
    await until(lambda: load.decided >= wanted)


async def drop_replies(place: Place) -> None:
    """Redis's next replies to the API get lost, until it gives its connection up."""
    proxy = place.proxies["api-redis"]
    proxy.rule = Rule("drop-reply", at_most=1)
    async with asyncio.timeout(PATIENCE_S):
        await proxy.rule.struck.wait()


@pytest.mark.parametrize("retry_unknown", [False, True])
async def test_replies_that_are_lost(directory: Path, retry_unknown: bool) -> None:
    """Without repeats the journal says what happened; with them the service does."""
    async with service(directory, settings=SETTINGS) as place:
        load = Load(
            place.urls,
            place.key,
            History(),
            seed=3,
            accounts=10,
            retry_unknown=retry_unknown,
            durability="local",
        )
        await load.open()
        async with running(load):
            await more(load, 100)
            await drop_replies(place)
            await more(load, 100)
        verdict = await check(load.history, place)

    verdict.assert_clean()
    operations = load.history.operations
    replayed = [each for each in operations if each.replay]
    if retry_unknown:
        assert replayed
        assert all(each.attempts > 1 for each in replayed)
    else:
        assert not replayed
        assert verdict.applied > 0
        assert {each.attempts for each in operations} == {1}


async def test_what_redis_loses_is_counted_and_reported(directory: Path) -> None:
    """The worker stands still, so that nothing settles; then Redis forgets everything."""
    async with service(directory) as place:
        load = Load(place.urls, place.key, History(), seed=4, accounts=10)
        await load.open()
        async with running(load):
            await more(load, 200)
            place.workers[0].pause()
            await more(load, 50)
            load.history.note("flushed")
            async with place.redis_client() as client:
                await client.flushall()
            place.workers[0].resume()
            await place.open_again()
            await more(load, 100)
        allowed = await check(load.history, place, allow_lost=True)
        forbidden = await check(load.history, place, repeat=0)

    allowed.assert_clean()
    assert 0 < allowed.lost <= allowed.reported_by_shard.total()
    assert forbidden.found["lost"] == allowed.lost


async def test_a_load_of_sums(directory: Path) -> None:
    async with service(directory, proxied=False) as place:
        tally = Tally()
        made = await load(place.urls, place.key, tally, seed=5, accounts=10, operations=300)
        verdict = await check(tally, place)
        journal = await check_journal(place)

    verdict.assert_clean()
    journal.assert_clean()
    assert not tally.operations
    assert made.decided >= 300
    assert verdict.acknowledged == tally.counted("ok") > 200
    assert journal.entries >= verdict.entries > 200


def test_a_refusal_that_is_not_holdfasts_own_has_a_code_all_the_same() -> None:
    assert code_of(Reply(502, b"<html>", False)) == "http_502"
    assert code_of(Reply(503, b'{"code":"overloaded"}', False)) == "overloaded"
