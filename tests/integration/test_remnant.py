"""A rebuild that ended half way: what it left in Redis is never adopted, whoever forgot it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from holdfast.embedded import Postgres, Valkey
from settlement.generation import Generation
from settlement.readiness import make_ready
from settlement.rebuild import delete_keys, empty, restart, set_aside
from settlement.verdict import Fate, Superseded
from settlement.vetting import Vetting
from tests.stack import Stack
from tests.vetted import (
    Snapshot,
    begin_with_two_holds,
    incidents,
    other_worker,
    shard,
    until,
    vet,
    vet_anew,
)

ACCOUNT = "acme"


@pytest.fixture
def valkey(server_dir: Path) -> Iterator[Valkey]:
    with Valkey.start(server_dir / "valkey") as server:
        yield server


@pytest.fixture
async def stack(valkey: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    """Four open shards; `acme` has 100, and two holds of which the second is not settled."""
    async with Stack(valkey.url, postgres_server.url, shards=4, vet=False) as stack:
        await begin_with_two_holds(stack, ACCOUNT)
        yield stack


@pytest.fixture
def number(stack: Stack) -> int:
    return stack.shards.number_of(ACCOUNT)


async def half_a_rebuild(stack: Stack, number: int) -> Generation:
    """Another worker's vetter, which dies when it has begun to delete."""
    state = other_worker(stack)
    await state.refresh()
    node = stack.wire.nodes()[0]
    dies = Generation(state, node, await make_ready(state, node, moved=False))
    await dies.declare(range(4), "dies", {number})
    await dies.raise_metas()
    await dies.load_scripts()
    verdicts = await dies.judge({number})
    assert verdicts[number].fate is Fate.REBUILD
    mark = await set_aside(dies, number, verdicts[number], asked_by="alice")
    await delete_keys(dies, number, [stack.shards.keys[number].acct(ACCOUNT)], mark.seq)
    return dies


@pytest.mark.parametrize("second_dies_too", [False, True])
async def test_rebuild_that_died_is_finished_and_never_adopted(
    stack: Stack, number: int, second_dies_too: bool
) -> None:
    await half_a_rebuild(stack, number)
    assert (await shard(stack, number))["state"] == "rebuilding"
    if second_dies_too:
        # Its declaration must not make the remnant look like a shard that was merely being vetted.
        node = stack.wire.nodes()[0]
        second = Generation(stack.state, node, await make_ready(stack.state, node, moved=False))
        await second.declare(range(4), "dies too")
        assert (await shard(stack, number))["state"] == "rebuilding"

    await vet(stack)

    assert (await shard(stack, number))["state"] == "open"
    assert (await shard(stack, number))["mark"] == 4
    family = stack.shards.keys[number].family
    assert {key for key in await stack.keys() if key.startswith(family)} == {
        stack.shards.keys[number].meta,
        stack.shards.keys[number].due,
    }
    (incident,) = await incidents(stack, "rebuild")  # of the one who began
    details = json.loads(incident["details"])
    assert details["asked_by"] == "alice"
    assert (details["lost_known"], details["prefix_settled"]) == (0, 1)


@pytest.mark.parametrize("restarted", [False, True])
async def test_remnant_is_rebuilt_though_postgres_has_forgotten_that_it_is_one(
    stack: Stack, number: int, valkey: Valkey, restarted: bool
) -> None:
    await half_a_rebuild(stack, number)
    assert (await stack.meta(number))["remnant"] == "4"
    await stack.pool.execute("UPDATE shard SET state = 'vetting', state_reason = ''")
    if restarted:
        await asyncio.to_thread(valkey.kill)
        await asyncio.to_thread(valkey.restart)
        await until(lambda: stack.wire.nodes()[0].connected)

    await vet_anew(stack, Vetting(stack.state))

    row, meta = await shard(stack, number), await stack.meta(number)
    assert (row["state"], row["mark"], meta["seq"]) == ("open", 4, "4")
    assert "remnant" not in meta
    family = stack.shards.keys[number].family
    assert {key for key in await stack.keys() if key.startswith(family)} <= {
        *stack.shards.keys[number].of_shard()[:3],
        stack.shards.keys[number].due,
    }
    _, incident = await incidents(stack, "rebuild")
    assert "an earlier rebuild had not ended" in incident["summary"]
    assert await incidents(stack, "stopped") == []


@pytest.mark.parametrize("stream_is_gone", [False, True])
async def test_remnant_is_not_started_below_the_mark_it_was_made_at(
    stack: Stack, number: int, stream_is_gone: bool
) -> None:
    snapshot = Snapshot(stack)
    await snapshot.take()  # at entry 3
    dies = await half_a_rebuild(stack, number)
    if stream_is_gone:
        await delete_keys(dies, number, [stack.shards.keys[number].stream], 4)
    await snapshot.go_back()
    stack.state.doubt(number, "fenced")

    await vet_anew(stack, Vetting(stack.state))

    row, meta = await shard(stack, number), await stack.meta(number)
    (incident,) = [i for i in await incidents(stack, "postgres_went_back") if i["shard"] == number]
    assert "up to entry 4" in incident["summary"]
    if not stream_is_gone:
        assert (row["state"], row["mark"], meta["seq"]) == ("open", 4, "4")
        assert "remnant" not in meta
        return
    assert (row["state"], row["mark"], meta["remnant"]) == ("stopped", 3, "4")
    (incident,) = await incidents(stack, "stopped")
    assert "Redis had begun a rebuild at entry 4, the journal ends at 3" in incident["summary"]

    await Vetting(stack.state).force_rebuild([number], "alice")

    row, meta = await shard(stack, number), await stack.meta(number)
    assert (row["state"], row["mark"], meta["seq"]) == ("open", 3, "3")
    assert "remnant" not in meta


async def test_shard_that_was_emptied_does_not_restart_from_a_postgres_that_went_back(
    stack: Stack, number: int
) -> None:
    before = await shard(stack, number)
    generation = await half_a_rebuild(stack, number)
    await empty(generation, {number: 4})
    await stack.pool.execute(
        "UPDATE shard SET mark = 3, chain = $2 WHERE id = $1", number, before["chain"]
    )

    with pytest.raises(Superseded, match="STALE"):
        await restart(generation, number)

    assert (await stack.meta(number))["remnant"] == "4"
    await vet(stack)
    assert (await shard(stack, number))["state"] == "stopped"


async def test_shard_that_has_no_key_left_is_noted_as_well(stack: Stack, number: int) -> None:
    generation = await half_a_rebuild(stack, number)
    keys = stack.shards.keys[number]
    left = {key for key in await stack.keys() if key.startswith(keys.family)} - {keys.meta}
    await stack.command("UNLINK", *left)
    await stack.command("HDEL", keys.meta, "remnant")

    await empty(generation, {number: 4})

    assert (await stack.meta(number))["remnant"] == "4"


async def test_shard_is_a_remnant_until_the_last_part_of_its_restart(
    stack: Stack, number: int
) -> None:
    generation = await half_a_rebuild(stack, number)
    await empty(generation, {number: 4})
    keys, chain = stack.shards.keys[number], (await shard(stack, number))["chain"]

    await generation.run(number, "restart", keys.of_shard(), [4, chain, 0, ACCOUNT, 7])
    assert (await stack.meta(number))["remnant"] == "4"
    await generation.run(number, "restart", keys.of_shard(), [4, chain, 1, "other", 9])

    assert "remnant" not in await stack.meta(number)
    due = await stack.command("ZRANGE", keys.due, 0, -1)
    assert due == [ACCOUNT.encode(), b"other"]
