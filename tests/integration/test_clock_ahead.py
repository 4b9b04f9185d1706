"""A Redis whose clock was ahead, on real servers: what it ended early is not taken for new.

The test build moves the scripts' clock alone, so what Redis would end by its own is ended here.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.embedded import Postgres, Valkey
from holdfast.errors import Unavailable
from holdfast.ledger import Ledger, open_ledger
from holdfast.model import Context, Movement
from holdfast.wire import Node, RedisUnavailable
from settlement import vetting as vetting_module
from settlement.clocks import ClockAhead, Reading, Span
from settlement.lease import Leases
from settlement.readiness import make_ready
from settlement.redis_settings import NodeReport
from settlement.state import WorkerState
from settlement.vetting import Vetting
from tests.commands import assert_reconciled
from tests.stack import Stack
from tests.vetted import (
    PATIENCE_S,
    claim,
    incidents,
    other_worker,
    settle_all,
    shard,
    vet,
    vet_anew,
)

SHARDS = 2
DAY_MS = 86_400_000
ACCOUNT = "acme"
CONTEXT = Context("clock", "test")


@pytest.fixture
async def stack(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    """Vetted, claimed, leased; `acme` has 1000, and keys of three calls that are over."""
    urls = valkey_server.url, postgres_server.url
    async with Stack(*urls, shards=SHARDS, vet=False, test_clock=True) as stack:
        await claim(stack)
        await vet(stack)
        await Leases(stack.state).round()
        await stack.open(ACCOUNT, grant=1000)
        await stack.charge(ACCOUNT, "unlike", 1)
        await settle_all(stack)
        yield stack


@pytest.fixture
def number(stack: Stack) -> int:
    return stack.shards.number_of(ACCOUNT)


@pytest.fixture
async def ledger(stack: Stack) -> AsyncIterator[Ledger]:
    ledger = await open_ledger(stack.config)
    try:
        yield ledger
    finally:
        await ledger.close()


async def end_early(stack: Stack, by_ms: int) -> None:
    """What Redis does whose clock jumps ahead: every key ends that has less than that to live."""
    for key in await stack.keys():
        if 0 <= await stack.command("PTTL", key) <= by_ms:
            await stack.command("UNLINK", key)


async def jump(stack: Stack, by_ms: int) -> None:
    await end_early(stack, by_ms)
    for keys in stack.shards.keys:
        await stack.command("HSET", keys.meta, "test_offset_ms", by_ms)


async def back(stack: Stack) -> None:
    for keys in stack.shards.keys:
        await stack.command("HDEL", keys.meta, "test_offset_ms")


async def charged(leases: Leases, ledger: Ledger, key: str, amount: int) -> Movement:
    """A charge of `acme`, repeated until it is answered; leases are kept meanwhile."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await leases.round()
            with contextlib.suppress(Unavailable):
                return await ledger.charge(ACCOUNT, key, amount=amount, context=CONTEXT)
            await asyncio.sleep(0.02)


def next_worker(stack: Stack) -> WorkerState:
    """One that takes over all shards, and has seen nothing."""
    state = other_worker(stack)
    for row, known in zip(state.rows, stack.state.rows, strict=True):
        row.nonce, row.state, row.claimed = known.nonce, known.state, True
        row.run_id, row.replid = known.run_id, known.replid
    return state


async def rebuilt(stack: Stack) -> list[dict[str, Any]]:
    """The rebuilds, in order of shards, with their details."""
    found = sorted(await incidents(stack, "rebuild"), key=lambda each: each["shard"])
    return [each | json.loads(each["details"]) for each in found]


@pytest.mark.parametrize("seen_by", ["a worker that is gone", "nobody, but for a lease that is"])
async def test_key_whose_record_ended_early_is_not_taken_for_a_new_one(
    stack: Stack, ledger: Ledger, number: int, seen_by: str
) -> None:
    """Given a charge that is settled and one that is not, I expect both to answer what they did,
    whether the jump was seen, or was over before anybody looked."""
    leases = Leases(stack.state)
    settled = await charged(leases, ledger, "settled", 70)
    await settle_all(stack)
    recent = await charged(leases, ledger, "recent", 30)
    await leases.round()
    if seen_by == "a worker that is gone":
        await jump(stack, DAY_MS)
        await leases.round()
        await back(stack)
        await stack.pool.execute("UPDATE shard SET claimed_by = 'other'")
        leases = Leases(next_worker(stack))
    else:
        await end_early(stack, DAY_MS)
    assert not await stack.command(
        "EXISTS", *(stack.shards.keys[number].record(ACCOUNT, key) for key in ("settled", "recent"))
    )

    await leases.round()  # right again, and nothing is lent

    assert {row.number for row in stack.state.rows} == leases.state.doubts.keys()
    assert not await stack.command("EXISTS", stack.shards.keys[number].lease_finish)
    await vet_anew(stack, Vetting(leases.state))
    await stack.state.refresh(force=True)
    for key, amount, first in (("settled", 70, settled), ("recent", 30, recent)):
        again = await charged(leases, ledger, key, amount)
        assert again.replayed and again.available == first.available, again
    assert (await stack.acct(ACCOUNT))["available"] == "899"
    assert "ahead_ms" not in await stack.meta(number)
    for each in await rebuilt(stack):
        assert each["lost_at_most"] == 0, each
        assert "the clock of this Redis was ahead" in each["summary"]
    assert [each["shard"] for each in await rebuilt(stack)] == list(range(SHARDS))
    await leases.round()
    assert all(each["closed_at"] for each in await incidents(stack, "clock"))
    await settle_all(stack)
    await assert_reconciled(stack)


@pytest.mark.parametrize(
    ("left_ms", "fate"),
    [(1_900, "ahead"), (900, "as it was")],  # less than the slack that clocks are given
)
async def test_lease_that_redis_ended_before_its_time_is_a_witness(
    stack: Stack, left_ms: int, fate: str
) -> None:
    """Of one shard; a process has one clock, so I expect all of its shards to be rebuilt."""
    leases, keys = Leases(stack.state), stack.shards.keys[0]
    await leases.round()
    assert 0 < int((await stack.meta(0))["lent_ms"]) - time.time() * 1000 <= 2_000
    await stack.command("DEL", keys.lease_new, keys.lease_finish)
    seconds, micros = await stack.command("TIME")
    told_ms = int(seconds) * 1000 + int(micros) // 1000
    await stack.command("HSET", keys.meta, "lent_ms", told_ms + left_ms)

    await leases.round()

    if fate == "as it was":
        assert not stack.state.doubts
        assert await stack.command("EXISTS", keys.lease_finish)
        return
    assert stack.state.doubts == {0: "its clock was ahead"}
    assert "ahead_ms" not in await stack.meta(1)
    await vet_anew(stack, Vetting(stack.state))
    assert [each["shard"] for each in await rebuilt(stack)] == list(range(SHARDS))
    await leases.round()
    assert await stack.command("EXISTS", keys.lease_new) and not stack.state.doubts


async def test_generation_that_ends_a_lease_is_not_taken_for_a_clock(stack: Stack) -> None:
    """Given a lease that vetting ended, I expect the next to be lent at once."""
    leases = Leases(stack.state)
    await leases.round()
    await stack.command("SCRIPT", "FLUSH")
    await leases.round()
    await vet_anew(stack, Vetting(stack.state))
    await leases.round()

    assert await stack.command("EXISTS", *(keys.lease_finish for keys in stack.shards.keys)) == 2
    assert await rebuilt(stack) == []


async def test_redis_whose_clock_is_ahead_is_not_vetted(stack: Stack) -> None:
    """Given a Redis that is to be vetted while its clock is ahead, I expect it to stay closed, with
    an incident, until the clock is right; then to be rebuilt, though no lease saw it."""
    await jump(stack, 5_000)
    await stack.pool.execute("UPDATE shard SET state = 'vetting'")
    vetting = Vetting(stack.state)
    before = (await shard(stack, 0))["generation"]
    node = stack.shards.node_of(0)
    with pytest.raises(ClockAhead, match="ahead of Postgres's; its shards are rebuilt"):
        await Leases(stack.state).clocks.assert_not_ahead(node, range(SHARDS))
    await vetting.round()
    await vetting.round()
    with pytest.raises(ClockAhead):
        await vetting.force_rebuild([0], "cli:alice")
    (incident,) = await incidents(stack, "clock")
    assert "ahead of" in incident["summary"] and incident["closed_at"] is None
    assert (await shard(stack, 0))["generation"] == before

    await back(stack)
    await vet(stack, vetting)

    assert [each["reason"] for each in await rebuilt(stack)] == [
        "the clock of this Redis was ahead, so that records may have ended early"
    ] * SHARDS
    await Leases(stack.state).round()
    (incident,) = await incidents(stack, "clock")
    assert incident["closed_by"] == "worker"


async def test_vetter_that_dies_on_the_way_leaves_every_shard_to_be_rebuilt(stack: Stack) -> None:
    """Given a note on one shard only, and a vetter that ends with the other one still to do, I
    expect the next to rebuild both."""
    await stack.shards.note_ahead(0, 1)

    class Died(Exception):
        pass

    class Dies(Vetting):
        async def vet(self, generation, numbers, reason, **rest) -> None:  # type: ignore[no-untyped-def]
            opens, left = generation.open, [1]

            async def open_some(wanted: Collection[int], *rest: Any) -> None:
                if wanted and not left:
                    raise Died
                if wanted:
                    left.pop()
                await opens(wanted, *rest)

            generation.open = open_some
            await super().vet(generation, numbers, reason, **rest)

    await Leases(stack.state).round()
    with pytest.raises(Died):
        await vet_anew(stack, Dies(stack.state))
    assert sorted([(await shard(stack, n))["state"] for n in range(SHARDS)]) == [
        "open",
        "rebuilding",
    ]

    await vet(stack, Vetting(other_worker(stack)))

    assert [each["shard"] for each in await rebuilt(stack)] == list(range(SHARDS))
    metas = [await stack.meta(n) for n in range(SHARDS)]
    assert not any("ahead_ms" in meta for meta in metas)


async def test_shard_that_could_not_be_told_is_not_lent_to(
    valkey_server: Valkey, postgres_server: Postgres
) -> None:
    """Given a clock that was ahead of this worker's own while Postgres was away, and a Redis that
    was away when it was to be told, I expect it to be told before it is lent a lease."""
    urls = valkey_server.url, postgres_server.url
    async with Stack(*urls, shards=1, vet=False) as stack:
        await claim(stack)
        await vet(stack)
        leases = Leases(stack.state)
        now = time.monotonic()
        reading = Reading(DAY_MS, Span(now, now), roomy=True, numbers=(0,))
        wire, node = stack.shards.wire, stack.shards.node_of(0)
        stack.shards.wire = _Away()  # type: ignore[assignment]
        sane = await leases.clocks.compare({node: reading}, 0, Span(now, now), postgres=False)
        assert sane == set() and not leases.sane(0)
        stack.shards.wire = wire

        await leases.round()

        assert (await stack.meta(0))["ahead_ms"] == str(DAY_MS)
        assert stack.state.doubts == {0: "its clock was ahead"}


class _Away:
    """The wire to a Redis that has just gone away."""

    async def call(self, *_: object) -> None:
        raise RedisUnavailable("away")


async def test_redis_that_started_ahead_and_was_set_right_is_rebuilt(
    server_dir: Path, postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a Redis that runs anew and tells an earlier time than when it started, I expect it to
    be rebuilt, once."""

    async def set_right(state: WorkerState, node: Node, *, moved: bool) -> NodeReport:
        report = await make_ready(state, node, moved=moved)
        assert not report.started_ahead
        return replace(report, started_ahead=True)

    with Valkey.start(server_dir / "valkey") as server:
        async with Stack(server.url, postgres_server.url, shards=1, vet=False) as stack:
            monkeypatch.setattr(vetting_module, "make_ready", set_right)
            await claim(stack)
            vetting = await vet(stack)
            assert await rebuilt(stack) == []  # there was nothing that could have ended
            server.kill()
            server.restart()
            await vet_anew(stack, vetting)
            assert len(await rebuilt(stack)) == 1
            await stack.command("SCRIPT", "FLUSH")
            stack.state.doubt(0, "NOSCRIPT")
            await vet_anew(stack, vetting)
            assert len(await rebuilt(stack)) == 1


async def test_note_is_made_where_a_shard_was_served_and_memory_is_full(stack: Stack) -> None:
    await stack.shards.note_ahead(0, 7)
    assert (await stack.meta(0))["ahead_ms"] == "7"
    await stack.command("CONFIG", "SET", "maxmemory", 1)
    try:
        await stack.shards.note_ahead(1, 8)
    finally:
        await stack.command("CONFIG", "SET", "maxmemory", 0)
    assert (await stack.meta(1))["ahead_ms"] == "8"
    for keys in stack.shards.keys:
        assert not await stack.command("EXISTS", keys.lease_new, keys.lease_finish)
    await stack.command("DEL", stack.shards.keys[1].meta)
    await stack.shards.note_ahead(1, 9)
    assert await stack.meta(1) == {}
