"""The sweeper on real servers: it ends what is due, in bounded steps, and stops at nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from holdfast.cold import ColdLoader
from holdfast.embedded import Postgres, Valkey
from holdfast.errors import StoreUnavailable
from holdfast.gate import Gate
from holdfast.postgres import open_pool
from settlement.lease import Leases
from settlement.state import ShardRow
from settlement.sweeper import Sweeper
from tests.stack import WINDOW_MS, Stack
from tests.vetted import claim, keep_leases, running, settle_all, vet

TTL_MS = 60_000


@pytest.fixture
async def still(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    """Two open shards whose clock stands still, a day ahead, until a test moves it."""
    url = postgres_server.url
    async with Stack(valkey_server.url, url, shards=2, vet=False, test_clock=True) as stack:
        await claim(stack)
        await vet(stack)
        seconds, _ = await stack.command("TIME")
        await set_clock(stack, int(seconds) * 1000 + 86_400_000)
        yield stack


@pytest.fixture
async def stack(still: Stack) -> AsyncIterator[Stack]:
    """The same, with leases for as long as the test goes on."""
    await still.renew_leases()
    async with running(keep_leases(still)):
        yield still


async def set_clock(stack: Stack, now_ms: int) -> None:
    for keys in stack.shards.keys:
        await stack.command("HSET", keys.meta, "test_now_ms", now_ms)


async def clock(stack: Stack) -> int:
    return int((await stack.meta(0))["test_now_ms"])


async def advance(stack: Stack, by_ms: int) -> None:
    await set_clock(stack, await clock(stack) + by_ms)


async def no_load(account: str) -> object:
    raise AssertionError(f"{account} is not cold")


def sweeper_of(stack: Stack) -> Sweeper:
    return Sweeper(stack.state, no_load, lambda number: True)


async def entries(stack: Stack, account: str, kind: str) -> int:
    stream = stack.shards.keys[stack.shards.number_of(account)].stream
    found = await stack.command("XRANGE", stream, "-", "+")
    marks = (f'"type":"{kind}"', f'"account":"{account}"')
    return sum(all(mark.encode() in fields[1] for mark in marks) for _, fields in found)


async def due(stack: Stack, account: str) -> int | None:
    """When something of an account is due, as the shard notes it."""
    keys = stack.shards.keys[stack.shards.number_of(account)]
    score = await stack.command("ZSCORE", keys.due, account)
    return None if score is None else int(score)


async def test_thousand_holds_due_in_one_millisecond_expire_in_bounded_steps(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stack.open("acme", grant=1000)
    for number in range(1000):
        await stack.reserve("acme", f"h{number}", 1, ttl_ms=TTL_MS)
    assert (await stack.acct("acme"))["held"] == "1000"
    steps: list[int] = []
    run = stack.shards.run

    async def counted(number: int, name: str, nonce: str, keys: Any, args: Any) -> Any:
        if name == "expire":
            steps.append(len(args) - 3)
        return await run(number, name, nonce, keys, args)

    monkeypatch.setattr(stack.shards, "run", counted)
    sweeper = sweeper_of(stack)
    await advance(stack, TTL_MS - 1)
    assert await sweeper.round() == 0
    steps.clear()

    await advance(stack, 1)

    assert await sweeper.round() == 1000
    assert steps == [100] * 10
    acct = await stack.acct("acme")
    assert (acct["available"], acct["held"]) == ("1000", "0")
    assert await entries(stack, "acme", "expire") == 1000
    await sweeper.round()
    assert await due(stack, "acme") is None


async def test_next_deadline_is_noted_when_the_first_has_passed(stack: Stack) -> None:
    await stack.open("acme", grant=100)
    await stack.reserve("acme", "soon", 10, ttl_ms=TTL_MS)
    await stack.reserve("acme", "late", 10, ttl_ms=5 * TTL_MS)
    later_ms = await clock(stack) + 5 * TTL_MS
    await advance(stack, TTL_MS)

    assert await sweeper_of(stack).round() == 1

    assert await due(stack, "acme") == later_ms
    assert (await stack.acct("acme"))["held"] == "10"


async def test_time_that_was_noted_too_early_is_corrected(stack: Stack) -> None:
    await stack.open("acme", grant=100)
    await stack.reserve("acme", "h1", 10, ttl_ms=TTL_MS)
    await stack.open("none", grant=100)
    deadline_ms = await clock(stack) + TTL_MS
    for account in ("acme", "none"):
        keys = stack.shards.keys[stack.shards.number_of(account)]
        await stack.command("ZADD", keys.due, 1, account)

    assert await sweeper_of(stack).round() == 0

    assert await due(stack, "acme") == deadline_ms
    assert await due(stack, "none") is None


@pytest.mark.parametrize("ended", ["release", "commit"])
async def test_grant_that_comes_back_from_a_hold_is_looked_at_when_it_expires(
    stack: Stack, ended: str
) -> None:
    """Given a grant that a hold has drawn whole, so that the sweeper noted the hold's deadline, If
    the hold ends and brings it back, I expect it to be forfeited in time, of an idle account too.
    """
    await stack.open("acme", grant=100)
    expires_ms = await clock(stack) + 2 * TTL_MS
    await stack.grant("acme", "g1", 50, expires_ms=expires_ms)
    await stack.reserve("acme", "long", 50, ttl_ms=5 * TTL_MS)
    await stack.reserve("acme", "short", 10, ttl_ms=TTL_MS)
    await advance(stack, TTL_MS)
    sweeper = sweeper_of(stack)
    assert await sweeper.round() == 1
    assert await due(stack, "acme") == await clock(stack) + 4 * TTL_MS

    if ended == "release":
        await stack.release("acme", "long")
    else:
        await stack.commit("acme", "long", 20)

    assert await due(stack, "acme") == expires_ms
    await advance(stack, TTL_MS)
    await sweeper.round()
    lost = 50 if ended == "release" else 30
    acct = await stack.acct("acme")
    assert (acct["available"], acct["forfeited"]) == ("100", str(lost))
    assert await due(stack, "acme") is None


async def test_cold_account_is_loaded_and_its_grant_forfeited(stack: Stack) -> None:
    number = stack.shards.number_of("acme")
    await stack.open("acme")
    await stack.grant("acme", "g1", 50, expires_ms=await clock(stack) + TTL_MS)
    await settle_all(stack)
    keys = stack.shards.keys[number]
    code, _ = await stack.shards.run(
        number, "evict", stack.state.rows[number].nonce, keys.of_account("acme"), ["acme"]
    )
    assert code.name == "OK"
    assert await stack.acct("acme") == {}
    pool = await open_pool(stack.config)
    gates = [Gate(stack.shards, shard) for shard in range(2)]
    for gate in gates:
        assert await gate.read()
    loader = ColdLoader(stack.shards, gates, pool, WINDOW_MS)
    await advance(stack, TTL_MS)

    assert await Sweeper(stack.state, loader.load, lambda number: True).round() == 1

    await pool.close()
    acct = await stack.acct("acme")
    assert (acct["available"], acct["forfeited"]) == ("0", "50")
    assert await entries(stack, "acme", "forfeit") == 1
    assert await due(stack, "acme") is None


async def test_accounts_that_cannot_be_swept_stop_nobody(stack: Stack) -> None:
    number = stack.shards.number_of("acme")
    await stack.open("acme", grant=100)
    await stack.reserve("acme", "h1", 10, ttl_ms=TTL_MS)
    ghosts = [f"ghost{n}" for n in range(400) if stack.shards.number_of(f"ghost{n}") == number]
    assert len(ghosts) > 110  # more than one round takes
    for ghost in ghosts:
        await stack.command("ZADD", stack.shards.keys[number].due, 1, ghost)
    asked: list[str] = []

    async def load(account: str) -> object:
        asked.append(account)
        if account == "ghost0":
            raise StoreUnavailable("postgres", "away")
        return 7  # the journal does not know it, at that mark

    sweeper = Sweeper(stack.state, load, lambda number: True)
    await advance(stack, TTL_MS)

    rounds = -(-len(ghosts) // 100) + 1
    assert sum([await sweeper.round() for _ in range(rounds)]) == 1

    assert (await stack.acct("acme"))["held"] == "0"
    assert sorted(asked) == sorted(ghosts)  # each once: they are put off


async def test_damaged_account_stops_nobody(stack: Stack) -> None:
    for account in ("acme", "fine"):
        await stack.open(account, grant=100)
        await stack.reserve(account, "h1", 10, ttl_ms=TTL_MS)
    keys = stack.shards.keys[stack.shards.number_of("acme")]
    await stack.command("HSET", keys.acct("acme"), "held", "many")
    await advance(stack, TTL_MS)

    assert await sweeper_of(stack).round() == 1

    assert (await stack.acct("fine"))["held"] == "0"
    assert (await stack.acct("acme"))["held"] == "many"


async def test_two_sweepers_end_a_hold_once(stack: Stack) -> None:
    await stack.open("acme", grant=1000)
    for number in range(250):
        await stack.reserve("acme", f"h{number}", 1, ttl_ms=TTL_MS)
    await advance(stack, TTL_MS)

    made = await asyncio.gather(sweeper_of(stack).round(), sweeper_of(stack).round())

    assert sum(made) == 250
    assert await entries(stack, "acme", "expire") == 250


async def test_account_whose_callers_were_quicker_is_not_put_off(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a hold that somebody else ends between the look and the call, I expect the next one to
    be ended when it is due."""
    await stack.open("acme", grant=100)
    await stack.reserve("acme", "h1", 10, ttl_ms=TTL_MS)
    await stack.reserve("acme", "h2", 10, ttl_ms=2 * TTL_MS)
    sweeper = sweeper_of(stack)
    expire = sweeper._expire

    async def too_late(row: ShardRow, account: str, holds: list[str]) -> int:
        await sweeper_of(stack).round()
        return await expire(row, account, holds)

    await advance(stack, TTL_MS)
    with monkeypatch.context() as patch:
        patch.setattr(sweeper, "_expire", too_late)
        assert await sweeper.round() == 0
    assert await entries(stack, "acme", "expire") == 1

    await advance(stack, TTL_MS)
    assert await sweeper.round() == 1


async def test_nothing_is_swept_by_a_clock_that_is_off(stack: Stack) -> None:
    await stack.open("acme", grant=100)
    await stack.reserve("acme", "h1", 10, ttl_ms=TTL_MS)
    leases = Leases(stack.state)
    await set_clock(stack, await clock(stack) + TTL_MS)  # with leases that are still there
    await leases.round()

    assert await Sweeper(stack.state, no_load, leases.sane).round() == 0

    assert (await stack.acct("acme"))["held"] == "10"


async def test_nothing_is_swept_without_a_lease(still: Stack) -> None:
    async with running(keep_leases(still)):
        await still.renew_leases()
        await still.open("acme", grant=100)
        await still.reserve("acme", "h1", 10, ttl_ms=TTL_MS)
    await advance(still, TTL_MS)
    for keys in still.shards.keys:
        await still.command("DEL", keys.lease_new, keys.lease_finish)
        await still.command("HDEL", keys.meta, "lent_ms")  # it has ended: no clock was ahead
    sweeper = sweeper_of(still)

    assert await sweeper.round() == 0
    async with running(keep_leases(still)):
        await still.renew_leases()
        assert await sweeper.round() == 1
