"""Doctor on real stores: what is right, what is wrong, and what cannot be told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.checks import Check, Level
from holdfast.children import free_port
from holdfast.doctor import examine, exit_code
from holdfast.embedded import Postgres, Valkey
from holdfast.wire import Wire
from settlement import incidents, schema
from tests.stack import Stack
from tests.vetted import claim, settle_all

MAXMEMORY = 256 * 2**20


@pytest.fixture
async def stack(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    async with Stack(valkey_server.url, postgres_server.url) as stack:
        yield stack


async def checks(stack: Stack, **changes: object) -> dict[str, Check]:
    """What doctor finds, by name; names that two parts share are told apart."""
    found = await examine(stack.config.model_copy(update=changes))
    return {f"{c.about.split()[0]} {c.name}": c for c in found}


async def work(stack: Stack) -> None:
    """What a worker does that a stack does not: says that it lives, and proves it."""
    await stack.pool.execute("INSERT INTO worker (id) VALUES ('test')")
    await claim(stack)
    await stack.pool.execute("UPDATE shard SET proof_at = clock_timestamp()")


def levels(found: dict[str, Check]) -> dict[Level, set[str]]:
    grouped: dict[Level, set[str]] = {}
    for name, check in found.items():
        grouped.setdefault(check.level, set()).add(name)
    return grouped


async def test_what_is_right_is_ok_and_what_is_wrong_says_how_to_mend_it(stack: Stack) -> None:
    """Given stores as tests have them, I expect only what tests do without."""
    await work(stack)
    found = await checks(stack)
    assert levels(found).get("fail") == {"postgres fsync"}  # tests never lose power
    assert levels(found).get("warn") == {"redis maxmemory", "postgres role"}
    assert "unknown" not in levels(found)
    for check in found.values():
        assert bool(check.mend) is (check.level != "ok"), check
    assert exit_code(list(found.values())) == 1
    assert found["redis appendfsync"].found == "always"
    assert found["postgres schema"].found == str(schema.migrations()[-1])
    assert "superuser" in found["postgres role"].found  # whom a fresh server has, and nobody else
    assert found["settlement leases"].found == "4 of 4 shards take new spending"


async def test_without_a_worker_nothing_is_well(stack: Stack) -> None:
    await stack.stop_leases()
    for keys in stack.shards.keys:
        await stack.command("DEL", keys.lease_new)
    found = await checks(stack)
    failing = levels(found)["fail"]
    assert {"settlement workers", "settlement proof of life", "settlement leases"} <= failing
    assert "may only finish: 0, 1, 2, 3" in found["settlement leases"].found
    assert "holdfast settle" in found["settlement workers"].mend


async def test_shards_that_are_closed_are_named(stack: Stack) -> None:
    await stack.pool.execute(
        "UPDATE shard SET state = 'vetting', state_reason = 'why' WHERE id = 1"
    )
    found = await checks(stack)
    assert found["settlement shards"].level == "warn"
    assert "1 (why)" in found["settlement shards"].found
    await stack.pool.execute("UPDATE shard SET state = 'stopped' WHERE id = 2")
    assert (await checks(stack))["settlement shards"].level == "fail"


async def test_what_waits_for_an_operator_is_told(stack: Stack) -> None:
    async with stack.pool.acquire() as conn:
        await incidents.record(conn, "stopped", "a test")
    await stack.pool.execute(
        "INSERT INTO quarantine (origin, shard, seq, generation, account, entry, chain, error)"
        " VALUES ('rejected', 0, 1, 1, 'acme', '{}', '', 'a test'),"
        " ('lost', 0, 2, 1, 'acme', '{}', '', 'a test')"
    )
    assert (await checks(stack))["settlement money in"].level == "ok"
    await stack.pool.execute(
        "INSERT INTO outbox (account, key, origin, amount, source, state, error)"
        " VALUES ('acme', 'k', 'a test', 1, 'promo', 'failed', 'a test')"
    )
    found = await checks(stack)
    assert found["settlement money in"].level == "warn"
    assert found["settlement money in"].found.startswith("1 rows of the outbox failed, 0 events")
    assert found["settlement incidents"].found.startswith("1 open, since ")
    assert found["settlement quarantine"].level == "fail"
    assert found["settlement lost entries"].level == "warn"


async def test_the_window_costs_records_times_bytes(stack: Stack) -> None:
    """Given 20 records of one account in a day, I expect that many, at their size in Redis."""
    empty = (await checks(stack))["redis idempotency window"]
    assert empty.found == "1 d; no record in Redis to measure"
    await stack.open("acme", grant=1_000_000)
    for number in range(19):
        await stack.charge("acme", f"c{number}", 1)
    await settle_all(stack)
    size = await stack.command(
        "MEMORY", "USAGE", stack.shards.keys[stack.shards.number_of("acme")].record("acme", "c18")
    )
    found = (await checks(stack))["redis idempotency window"]
    assert found.level == "ok"
    assert found.found.startswith("20 records a day x 1 d x ")
    measured = float(found.found.split(" x ")[2].split()[0].replace(",", ""))
    assert size * 0.5 < measured < size * 2


async def test_entries_that_are_not_settled_are_counted(stack: Stack) -> None:
    await stack.open("acme", grant=10)
    found = await checks(stack)
    assert found["settlement backlog"].found.startswith("2 entries unsettled, at most 2 in a shard")


async def test_another_configuration_than_the_database_has(stack: Stack) -> None:
    found = await checks(stack, shards=8)
    assert found["postgres schema"].level == "fail"
    assert "HOLDFAST_SHARDS=4" in found["postgres schema"].found
    assert not any(name.startswith("settlement") for name in found)


async def test_a_store_that_is_away_cannot_be_told(stack: Stack) -> None:
    await work(stack)
    nobody = f"127.0.0.1:{free_port()}"
    found = await checks(stack, redis_url=f"redis://{nobody}/0")
    assert levels(found)["unknown"] == {"redis reachable"}
    assert found["settlement workers"].level == "ok"
    found = await checks(stack, redis_url="http://nowhere")
    assert levels(found)["unknown"] == {"redis reachable"}
    found = await checks(stack, database_url=f"postgresql://x:y@{nobody}/z")
    assert levels(found)["unknown"] == {"postgres reachable"}
    assert found["redis appendonly"].level == "ok"
    assert exit_code(list(found.values())) == 2


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (("--maxmemory-policy", "allkeys-lru"), {"maxmemory-policy": "fail"}),
        (("--appendonly", "no"), {"appendonly": "fail", "durability": "fail"}),
        (("--appendfsync", "everysec"), {"appendfsync": "fail", "durability": "fail"}),
        (("--maxmemory", str(MAXMEMORY)), {}),
    ],
)
async def test_settings_of_a_redis(
    stack: Stack, server_dir: Path, options: tuple[str, ...], wrong: dict[str, str]
) -> None:
    options = ("--maxmemory", str(MAXMEMORY), *options)
    with Valkey.start(server_dir / "valkey", extra_args=options) as server:
        found = await checks(stack, redis_url=server.url)
        of_node = [c for c in found.values() if c.about.startswith("redis 127")]
        assert {c.name: c.level for c in of_node if c.level != "ok"} == wrong
        assert found["redis maxmemory"].found.endswith("of 256 MiB in use")
        if "appendfsync" in wrong:
            found = await checks(stack, redis_url=server.url, durability="memory")
            assert found["redis appendfsync"].level == "ok"


async def test_room_for_the_backlog_is_what_all_shards_may_need(
    stack: Stack, server_dir: Path
) -> None:
    """Four shards of 80,000 entries of 700 B are 214 MiB, which must fit into 30 % of maxmemory."""
    with Valkey.start(server_dir / "valkey") as server:
        config = stack.config.model_copy(update={"redis_url": server.url})
        found = {c.name: c for c in await examine(config)}
        assert "room for the backlog" not in found  # without a limit that is the one thing to mend
        for megabytes, level in ((700, "warn"), (715, "ok")):
            await set_maxmemory(server, megabytes * 2**20)
            found = {c.name: c for c in await examine(config)}
            assert found["room for the backlog"].level == level
        assert found["room for the backlog"].found.startswith(
            "4 shards x 80,000 entries x 700 B = 214 MiB, "
        )


async def test_shards_that_have_recorded_a_later_time(stack: Stack) -> None:
    assert (await checks(stack))["settlement recorded time"].level == "ok"
    now = int((await stack.command("TIME"))[0]) * 1000
    await stack.command("HSET", stack.shards.keys[2].meta, "clock_ms", now + 86_400_000)
    await stack.stop_leases()
    found = (await checks(stack))["settlement recorded time"]
    assert (found.level, found.found[-3:]) == ("fail", ": 2")
    assert "holdfast clock reset" in found.mend


async def test_a_redis_that_is_nearly_full(stack: Stack, server_dir: Path) -> None:
    with Valkey.start(server_dir / "valkey") as server:
        config = stack.config.model_copy(update={"redis_url": server.url})
        used = await memory_used(stack, server)
        await set_maxmemory(server, int(used / 0.8))
        found = {c.name: c for c in await examine(config)}
        assert found["memory"].level == "fail"
        await set_maxmemory(server, used * 100)
        found = {c.name: c for c in await examine(config)}
        assert found["memory"].level == "ok"


async def memory_used(stack: Stack, server: Valkey) -> int:
    async with Stack(server.url, stack._admin_url, vet=False) as other:
        info = (await other.command("INFO", "memory")).decode()
    return int(dict(line.split(":", 1) for line in info.splitlines() if ":" in line)["used_memory"])


async def set_maxmemory(server: Valkey, size: int) -> None:
    wire = Wire(server.url, timeout_ms=1000)
    await wire.connect()
    await wire.nodes()[0].call("CONFIG", "SET", "maxmemory", str(size))
    await wire.close()


def test_the_exit_code_is_that_of_the_worst() -> None:
    def codes(*found: Level) -> int:
        return exit_code([Check("a", "b", level, "") for level in found])

    assert (codes(), codes("ok", "warn"), codes("ok", "unknown")) == (0, 0, 2)
    assert codes("unknown", "fail", "ok") == 1
