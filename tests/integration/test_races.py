"""Many processes, one account: what is decided once is decided once, whoever asks."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any

import httpx2
import pytest

from holdfast import api_keys
from holdfast.children import free_port
from holdfast.embedded import Postgres, Valkey
from tests.commands import assert_reconciled, command, outcome
from tests.conformance.drivers import HttpDriver
from tests.stack import Stack

RACERS = 64
Call = tuple[str, list[str], dict[str, Any]]
Outcomes = Counter[tuple[int, str | None]]


@pytest.fixture
async def stack(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    async with Stack(valkey_server.url, postgres_server.url, shards=2) as one:
        yield one


@asynccontextmanager
async def service(stack: Stack) -> AsyncIterator[tuple[str, str]]:
    """`holdfast serve` with two workers on a stack; its URL and a key."""
    _, token = await api_keys.create(stack.pool, "racers", api_keys.SCOPES)
    port = free_port()
    words = ("holdfast", "serve", "--port", str(port), "--workers", "2")
    async with command(stack, *words) as running:
        url = f"http://127.0.0.1:{port}"
        driver = HttpDriver(url, token)
        try:
            await until_ready(driver, running)
        finally:
            await driver.close()
        yield url, token
        running.terminate()
        await asyncio.wait_for(running.wait(), 20)


async def until_ready(driver: HttpDriver, running: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(30):
        while True:
            assert running.returncode is None, "the service has ended"
            try:
                return await driver.ready()
            except httpx2.TransportError:  # it does not listen yet
                await asyncio.sleep(0.02)


async def race(
    stack: Stack, races: list[list[Call]], where: str = "ledger", key: str = ""
) -> Outcomes:
    """How often each outcome came of all the calls of all the processes."""
    code, printed, said = await outcome(stack, "tests.racers", where, json.dumps(races), key)
    assert code == 0, said
    lines = [json.loads(line) for line in printed.splitlines()]
    assert len(lines) == len(races)
    return Counter((status, word) for status, word in chain.from_iterable(lines))


async def assert_books(stack: Stack, account: str, **expected: int) -> None:
    """Redis, the journal and both together say what they must."""
    await stack.settle()
    acct = await stack.acct(account)
    row = await stack.row("account", account=account)
    assert row is not None
    assert {name: int(acct.get(name, 0)) for name in expected} == expected
    assert {name: row[name] for name in expected} == expected
    versions = [entry["version"] for entry in await stack.rows("journal", account=account)]
    assert sorted(versions) == list(range(1, int(acct["version"]) + 1))
    await assert_reconciled(stack)


def reserves(count: int, first: int = 0) -> list[Call]:
    return [
        ("reserve", ["acme", f"h{number}"], {"amount": 1}) for number in range(first, first + count)
    ]


HELD_BUT_ONE = Counter({(201, None): RACERS - 1, (402, "insufficient_credits"): 1})


async def test_one_of_64_processes_goes_without(stack: Stack) -> None:
    """Given 63 units, If 64 processes reserve one each, I expect 63 holds and one denial."""
    await stack.open("acme", grant=RACERS - 1)

    outcomes = await race(stack, [[call] for call in reserves(RACERS)])

    assert outcomes == HELD_BUT_ONE
    await assert_books(stack, "acme", available=0, held=RACERS - 1, version=RACERS + 1)


async def test_one_of_64_callers_of_the_service_goes_without(stack: Stack) -> None:
    await stack.open("acme", grant=RACERS - 1)

    async with service(stack) as (url, key):
        races = [reserves(RACERS // 4, first) for first in range(0, RACERS, RACERS // 4)]
        outcomes = await race(stack, races, url, key)

    assert outcomes == HELD_BUT_ONE
    await assert_books(stack, "acme", available=0, held=RACERS - 1, version=RACERS + 1)


async def test_one_key_from_many_processes_is_one_hold(stack: Stack) -> None:
    await stack.open("acme", grant=100)

    outcomes = await race(stack, [[call] for call in reserves(1) * 16])

    assert outcomes == Counter({(201, None): 1, (200, None): 15})
    await assert_books(stack, "acme", available=99, held=1, version=3)


async def test_a_hold_ends_once(stack: Stack) -> None:
    """Given commits beside releases, I expect one kind to win and the other to be told so."""
    await stack.open("acme", grant=100)
    await stack.reserve("acme", "h", 40)
    commit: Call = ("commit", ["acme", "h"], {"amount": 13})
    release: Call = ("release", ["acme", "h"], {})

    outcomes = await race(stack, [[commit], [release]] * 8)

    committed = Counter({(200, None): 8, (409, "hold_committed"): 8})
    released = Counter({(200, None): 8, (409, "hold_released"): 8})
    assert outcomes in (committed, released)
    spent = 13 if outcomes == committed else 0
    await assert_books(stack, "acme", available=100 - spent, held=0, spent=spent, version=4)
