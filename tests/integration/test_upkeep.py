"""Upkeep on real servers: streams and accounts leave Redis only when nothing needs them."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from holdfast.embedded import Postgres, Valkey
from settlement import upkeep as upkeep_module
from settlement.upkeep import Upkeep
from tests.stack import Stack
from tests.vetted import claim, dump, keep_leases, running, settle_all, until, vet

RETENTION_S = 600
ACCOUNT = "acme"


class Clock:
    """Seconds that a test decides about."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def valkey(server_dir: Path) -> Iterator[Valkey]:
    """A Valkey of the test's own: how full it is decides what is evicted."""
    with Valkey.start(server_dir / "valkey") as server:
        yield server


@pytest.fixture
async def stack(valkey: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    async with Stack(
        valkey.url, postgres_server.url, shards=2, vet=False, evict_idle_s=1, evict_above_mb=1
    ) as stack:
        await claim(stack)
        await vet(stack)
        await stack.renew_leases()
        async with running(keep_leases(stack)):
            yield stack


async def fill(stack: Stack, count: int) -> None:
    """So many entries more of one account."""
    for _ in range(count):
        now = (await stack.acct(ACCOUNT)).get("version", "0")
        await stack.grant(ACCOUNT, f"g{now}", 1)


def all_but_a_node(gone: int, wanted: int) -> bool:
    """XTRIM drops whole nodes of a stream, 4 kB each: a dozen entries may stay in the last."""
    return wanted - 12 <= gone <= wanted


async def length(stack: Stack) -> int:
    stream = stack.shards.keys[stack.shards.number_of(ACCOUNT)].stream
    found: int = await stack.command("XLEN", stream)
    return found


# Streams


async def test_stream_keeps_what_was_settled_within_the_retention(stack: Stack) -> None:
    clock = Clock()
    upkeep = Upkeep(stack.state, clock)
    await stack.open(ACCOUNT)
    await fill(stack, 299)
    await settle_all(stack)
    assert await upkeep.trim() == 0  # nobody has seen how old it is
    clock.now += RETENTION_S / 2
    await fill(stack, 200)
    await settle_all(stack)
    assert await upkeep.trim() == 0

    clock.now += RETENTION_S / 2
    assert all_but_a_node(await upkeep.trim(), 300)
    clock.now += RETENTION_S / 2
    await upkeep.trim()
    assert all_but_a_node(500 - await length(stack), 500)


async def test_stream_keeps_what_is_not_settled(stack: Stack) -> None:
    clock = Clock()
    upkeep = Upkeep(stack.state, clock)
    await stack.open(ACCOUNT)
    await fill(stack, 199)
    await settle_all(stack, tell_redis=False)
    clock.now += 10 * RETENTION_S
    await upkeep.trim()
    clock.now += 10 * RETENTION_S
    assert await upkeep.trim() == 0  # Redis does not know yet that it is settled
    await settle_all(stack)
    await fill(stack, 200)
    assert all_but_a_node(await upkeep.trim(), 200)
    assert all_but_a_node(400 - await length(stack), 200)
    # A Postgres that went back still needs what Redis believes to be settled.
    row = stack.state.rows[stack.shards.number_of(ACCOUNT)]
    await settle_all(stack)
    row.mark = 250
    clock.now += 10 * RETENTION_S
    await upkeep.trim()
    clock.now += 10 * RETENTION_S
    await upkeep.trim()
    assert await length(stack) >= 150


async def test_stream_keeps_so_many_settled_entries_at_most(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "KEPT_MAX", 100)
    upkeep = Upkeep(stack.state, Clock())
    await stack.open(ACCOUNT)
    await fill(stack, 399)
    await settle_all(stack)

    assert all_but_a_node(await upkeep.trim(), 300)
    assert all_but_a_node(400 - await length(stack), 300)


async def test_another_generation_begins_another_retention(stack: Stack) -> None:
    clock = Clock()
    upkeep = Upkeep(stack.state, clock)
    await stack.open(ACCOUNT)
    await fill(stack, 199)
    await settle_all(stack)
    await upkeep.trim()
    clock.now += RETENTION_S
    stack.state.rows[stack.shards.number_of(ACCOUNT)].generation += 1
    assert await upkeep.trim() == 0
    clock.now += RETENTION_S
    assert all_but_a_node(await upkeep.trim(), 200)


async def test_partitions_are_made(stack: Stack) -> None:
    tables = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'journal'::regclass"
    before = await stack.pool.fetchval(tables)
    month = "SELECT to_char(now() + interval '1 month', 'YYYY_MM')"
    name = f"journal_{await stack.pool.fetchval(month)}"
    await stack.pool.execute(f"DROP TABLE {name}")

    assert await Upkeep(stack.state).partitions() == 1
    assert await stack.pool.fetchval(tables) == before


# Accounts


async def idle(stack: Stack, *accounts: str) -> None:
    """Wait until nobody has touched these accounts for a second."""
    for account in accounts:
        key = stack.shards.keys[stack.shards.number_of(account)].acct(account)

        async def untouched(key: bytes = key) -> bool:
            seconds: int = await stack.command("OBJECT", "IDLETIME", key)
            return seconds >= 1

        await until(untouched)
    await stack.renew_leases()


async def test_idle_account_leaves_when_redis_is_fuller_than_it_should_be(stack: Stack) -> None:
    for account in ("idle", "held", "unsettled", "suspect"):
        await stack.open(account, grant=100)
    await stack.reserve("held", "h1", 10)
    await settle_all(stack)
    await stack.pool.execute("UPDATE account SET quarantined = true WHERE account = 'suspect'")
    await stack.reserve("unsettled", "h1", 10)
    await stack.release("unsettled", "h1")
    before = await dump(stack, b"meta", b"lease:new", b"lease:finish")
    await idle(stack, "idle", "held", "unsettled", "suspect")

    assert await Upkeep(stack.state).eviction.round() == 1

    keys = stack.shards.keys[stack.shards.number_of("idle")]
    now = await dump(stack, b"meta", b"lease:new", b"lease:finish")
    assert before.keys() - now.keys() == {keys.acct("idle")}
    meta = await stack.meta(keys.number)
    last_seq = await stack.pool.fetchval("SELECT last_seq FROM account WHERE account = 'idle'")
    assert int(meta["last_evict_seq"]) == last_seq


async def test_account_of_another_worker_stays(stack: Stack) -> None:
    await stack.open("idle", grant=100)
    await settle_all(stack)
    await idle(stack, "idle")
    stack.state.rows[stack.shards.number_of("idle")].claimed = False

    assert await Upkeep(stack.state).eviction.round() == 0


async def test_nobody_leaves_a_redis_that_has_room(
    postgres_server: Postgres, valkey: Valkey
) -> None:
    async with Stack(
        valkey.url, postgres_server.url, shards=2, vet=False, evict_idle_s=1, evict_above_mb=512
    ) as stack:
        await claim(stack)
        await vet(stack)
        await stack.renew_leases()
        await stack.open("idle", grant=100)
        await settle_all(stack)
        await idle(stack, "idle")

        assert await Upkeep(stack.state).eviction.round() == 0


async def test_walk_over_many_accounts_goes_on_where_it_stopped(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("settlement.eviction._SCAN_CALLS", 1)
    monkeypatch.setattr("settlement.eviction._SCAN_COUNT", 10)
    accounts = [f"a{number}" for number in range(60)]
    for account in accounts:
        await stack.open(account)
    await settle_all(stack)
    await idle(stack, *accounts)
    eviction = Upkeep(stack.state).eviction

    rounds = [await eviction.round() for _ in range(30)]

    assert sum(rounds) == 60
    assert max(rounds) < 60
