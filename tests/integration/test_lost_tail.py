"""What is said of a Redis that came back without its last moment, and is adopted as it is."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.embedded import Postgres, Valkey
from settlement.generation import Generation
from settlement.readiness import make_ready
from settlement.rebuild import UNSETTLED_MAX
from settlement.vetting import Seen, Vetting
from tests.stack import Stack
from tests.vetted import Files, claim, incidents, other_worker, settle_all, until, vet, vet_anew

SHARDS = 4


@pytest.fixture
def valkey(server_dir: Path) -> Iterator[Valkey]:
    """A Valkey of the test's own that syncs every second, so that it promises `memory`."""
    with Valkey.start(server_dir / "valkey", appendfsync="everysec") as server:
        yield server


@pytest.fixture
async def stack(valkey: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    """Open, with an account of which entries 1 and 2 are settled and entry 3 is not."""
    stack = Stack(
        valkey.url, postgres_server.url, shards=SHARDS, vet=False, leases=False, durability="memory"
    )
    async with stack:
        await claim(stack)
        await vet(stack)
        await stack.renew_leases()
        await stack.open("acme", grant=100)
        await settle_all(stack)
        await stack.reserve("acme", "h1", 10)
        # What a Redis that syncs every second still has after a kill is not left to chance.
        await on_disk(stack)
        yield stack


@pytest.fixture
def number(stack: Stack) -> int:
    """The shard of the account."""
    return stack.shards.number_of("acme")


async def on_disk(stack: Stack) -> None:
    synced, _replicas = await stack.command("WAITAOF", 1, 0, 0)
    assert synced == 1


async def start_anew(stack: Stack, valkey: Valkey, *, ordered: bool = False) -> None:
    await asyncio.to_thread(valkey.stop if ordered else valkey.kill)
    await asyncio.to_thread(valkey.restart)
    await until(lambda: stack.wire.nodes()[0].connected)


async def lose_two(stack: Stack, valkey: Valkey) -> None:
    """Two more entries are acknowledged, and Redis comes back without them."""
    files = Files(valkey)
    await asyncio.to_thread(files.take)
    await stack.reserve("acme", "h2", 10)
    await stack.reserve("acme", "h3", 10)
    await asyncio.to_thread(files.go_back)


async def told(stack: Stack, kind: str) -> list[dict[str, Any]]:
    """Incidents of a kind, with their details read."""
    found = await incidents(stack, kind)
    return [each | {"details": json.loads(each["details"])} for each in found]


async def declared_in_vain(stack: Stack, steps: int) -> None:
    """Another worker's vetter, that dies after some steps."""
    state = other_worker(stack)
    node = state.shards.wire.nodes()[0]
    generation = Generation(state, node, await make_ready(state, node, moved=False))
    await generation.declare(range(SHARDS), "dies")
    for step in (generation.raise_metas, generation.load_scripts, generation.judge)[:steps]:
        await step()


@pytest.mark.parametrize("ordered", [False, True], ids=["killed", "told to stop"])
async def test_unsynced_redis_that_runs_anew_is_told_with_a_bound(
    stack: Stack, valkey: Valkey, number: int, ordered: bool
) -> None:
    """Given nothing that a lease had seen, and no way to tell a kill from an order."""
    assert await stack.rows("incident") == []  # a first start has nothing to lose

    await start_anew(stack, valkey, ordered=ordered)
    await vet_anew(stack, Vetting(stack.state))

    (incident,) = await told(stack, "unsynced_restart")
    details = incident["details"]
    assert (incident["shard"], incident["closed_at"]) == (None, None)
    assert "runs anew, and no more than `memory` was promised" in incident["summary"]
    assert "up to about two seconds" in incident["summary"]
    assert "may be gone" in incident["summary"]
    assert f"at most {UNSETTLED_MAX} entries of each of {SHARDS} shards" in incident["summary"]
    assert details["run_id"] == (await stack.boot(0))[0]
    assert details["lost_known"] == 0
    shards = {each["shard"]: each for each in details["shards"]}
    assert sorted(shards) == list(range(SHARDS))
    assert shards[number] == {
        "shard": number,
        "mark_before": 2,
        "mark": 2,
        "redis_seq": 3,
        "seen_seq": 0,
        "lost_known": 0,
        "lost_at_most": UNSETTLED_MAX - 1,  # entry 3 is one of those that had not settled
    }
    others = [each["lost_at_most"] for shard, each in shards.items() if shard != number]
    assert others == [UNSETTLED_MAX] * (SHARDS - 1)
    assert details["lost_at_most"] == SHARDS * UNSETTLED_MAX - 1
    assert len(await stack.rows("incident")) == 1


async def test_every_restart_is_told_once_however_often_its_vetting_is_started_over(
    stack: Stack, valkey: Valkey
) -> None:
    await start_anew(stack, valkey)
    await declared_in_vain(stack, 3)
    await start_anew(stack, valkey)  # in which nothing has served
    await declared_in_vain(stack, 1)
    await vet_anew(stack, Vetting(stack.state))
    assert len(await incidents(stack, "unsynced_restart")) == 1

    # No restart: nothing is lost, and nothing told.
    await stack.command("SCRIPT", "FLUSH")
    stack.state.doubt(0, "NOSCRIPT")
    await vet_anew(stack, Vetting(stack.state))
    assert len(await incidents(stack, "unsynced_restart")) == 1

    await start_anew(stack, valkey)
    await vet_anew(stack, Vetting(stack.state))
    assert len(await incidents(stack, "unsynced_restart")) == 2


async def test_what_was_promised_before_the_restart_counts(stack: Stack, valkey: Valkey) -> None:
    """Given that it syncs every write from its restart on, I expect that to make up for nothing."""
    await start_anew(stack, valkey)
    await stack.command("CONFIG", "SET", "appendfsync", "always")

    await vet_anew(stack, Vetting(stack.state))

    assert (await stack.meta(0))["durability"] == "local"
    assert len(await incidents(stack, "unsynced_restart")) == 1


async def test_tail_that_a_lease_had_seen_is_told_for_its_shard(
    stack: Stack, valkey: Valkey, number: int
) -> None:
    seen = {number: Seen(stack.state.rows[number].nonce, 4)}  # not the last one: that is 5
    await lose_two(stack, valkey)

    await vet_anew(stack, Vetting(stack.state, seen))

    (lost,) = await told(stack, "lost_tail")
    assert (lost["shard"], lost["closed_at"]) == (number, None)
    assert (lost["details"]["lost_known"], lost["details"]["lost_at_most"]) == (
        1,
        UNSETTLED_MAX - 1,
    )
    assert "at least 1 entries up to 4 are lost" in lost["summary"]
    assert "up to about two seconds" in lost["summary"]
    # The other shards may have lost something as well; each is told of in one place.
    (restart,) = await told(stack, "unsynced_restart")
    others = [each["shard"] for each in restart["details"]["shards"]]
    assert sorted([number, *others]) == list(range(SHARDS))


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
async def test_tail_that_was_seen_is_told_though_a_vetter_died_before(
    stack: Stack, valkey: Valkey, number: int, steps: int
) -> None:
    """Given a generation that was declared in between and never served, I expect what leases saw
    of the one that did to count."""
    vetting = Vetting(stack.state, {number: Seen(stack.state.rows[number].nonce, 5)})
    await vetting.round()  # as it looks five times a second
    await lose_two(stack, valkey)
    await until(lambda: stack.wire.nodes()[0].connected)
    await declared_in_vain(stack, steps)

    await vet_anew(stack, vetting)

    (incident,) = await told(stack, "lost_tail")
    assert incident["shard"] == number
    assert incident["details"]["lost_known"] == 2


async def test_what_was_seen_of_a_life_that_another_worker_ended_is_not_told_again(
    stack: Stack, valkey: Valkey, number: int
) -> None:
    vetting = Vetting(stack.state, {number: Seen(stack.state.rows[number].nonce, 5)})
    await vetting.round()
    await lose_two(stack, valkey)
    await until(lambda: stack.wire.nodes()[0].connected)
    await vet_anew(stack, Vetting(other_worker(stack)))
    await vetting.round()

    await start_anew(stack, valkey)
    await vet_anew(stack, vetting)

    assert await incidents(stack, "lost_tail") == []
    assert len(await incidents(stack, "unsynced_restart")) == 2
