"""Clocks that were ahead together, on real servers: what stays closed, and the way out of it."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import pytest

from holdfast.codes import Code
from holdfast.embedded import Postgres, Valkey
from holdfast.errors import Unavailable
from holdfast.ledger import open_ledger
from holdfast.model import Context
from settlement import clock_reset
from settlement.claims import Claims
from settlement.clock_reset import NotReset, reset_clocks, shards_ahead
from settlement.lease import Leases
from settlement.vetting import Vetting
from tests.commands import assert_reconciled, outcome
from tests.stack import Refused, Stack
from tests.vetted import (
    PATIENCE_S,
    claim,
    dump,
    incidents,
    other_worker,
    settle_all,
    vet,
    vet_anew,
)

SHARDS = 2
DAY_MS = 86_400_000
CONTEXT = Context("clock", "test")


@pytest.fixture
async def stack(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    """Vetted, claimed, and without any lease."""
    urls = valkey_server.url, postgres_server.url
    async with Stack(*urls, shards=SHARDS, vet=False, test_clock=True) as stack:
        await claim(stack)
        await vet(stack)
        yield stack


async def lived_ahead(stack: Stack, numbers: tuple[int, ...] = (0, 1)) -> None:
    """As both clocks leave it that were a day ahead while leases were lent, and came back."""
    await Leases(stack.state).round()
    for number in numbers:
        keys = stack.shards.keys[number]
        await stack.command("HINCRBY", keys.meta, "clock_ms", DAY_MS)
        for lease in (keys.lease_new, keys.lease_finish):
            await stack.command("PEXPIRE", lease, DAY_MS)


async def test_shards_go_on_once_an_operator_says_which_time_is_right(stack: Stack) -> None:
    """Given leases that were lent a day ahead and would last for it, I expect nothing to be decided
    by them: neither before nor after the reset, until a worker has rebuilt the shards, from which
    records may have gone by that time, and lends others."""
    leases = Leases(stack.state)
    await leases.round()
    await stack.open("acme", grant=100)
    await stack.reserve("acme", "h1", 40)
    await lived_ahead(stack)
    for _ in range(2):
        await leases.round()
        with pytest.raises(Refused, match="CLOCK"):
            await stack.commit("acme", "h1")
    assert len(await incidents(stack, "clock")) == SHARDS

    done = await reset_clocks(stack.state, None, "the time server was wrong", "cli:alice")

    assert [each.number for each in done] == [0, 1]
    assert all(DAY_MS - 60_000 < each.recorded_ms - each.now_ms <= DAY_MS for each in done)
    with pytest.raises(Refused, match="NO_FINISH"):
        await stack.commit("acme", "h1")
    await leases.round()
    assert stack.state.doubts == dict.fromkeys(range(SHARDS), "its clock was ahead")
    await vet_anew(stack, Vetting(stack.state))
    rebuilt = [json.loads(row["details"]) for row in await incidents(stack, "rebuild")]
    assert [each["lost_at_most"] for each in rebuilt] == [0] * SHARDS
    ledger = await open_ledger(stack.config)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await leases.round()
            with contextlib.suppress(Unavailable):
                assert (await ledger.commit("acme", "h1", context=CONTEXT)).late is False
                break
    await ledger.close()
    await stack.reserve("acme", "h2", 40)
    await leases.round()
    assert [row["closed_by"] for row in await incidents(stack, "clock")] == ["worker"] * SHARDS
    (incident,) = await incidents(stack, "clock_reset")
    assert incident["summary"].startswith("cli:alice let shards 0, 1 go on from 20")
    assert incident["summary"].endswith(" was recorded: the time server was wrong")
    details = json.loads(incident["details"])
    assert details["recorded_ms"] == {str(each.number): each.recorded_ms for each in done}
    assert await reset_clocks(stack.state, None, "again", "cli:alice") == []
    assert len(await incidents(stack, "clock_reset")) == 1
    await settle_all(stack)
    await assert_reconciled(stack)


async def test_only_the_shard_that_is_named_goes_on(stack: Stack) -> None:
    await lived_ahead(stack)
    await reset_clocks(stack.state, [1], "why", "cli:alice")
    assert [each.number for each in await shards_ahead(stack.state)] == [0]
    (incident,) = await incidents(stack, "clock_reset")
    assert incident["shard"] == 1


@pytest.mark.parametrize("whose", ["redis", "this machine"])
@pytest.mark.parametrize("offset_ms", [-3_600_000, 3_600_000])
async def test_nothing_is_reset_while_clocks_disagree(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, whose: str, offset_ms: int
) -> None:
    await lived_ahead(stack)
    if whose == "redis":
        await stack.command("HSET", stack.shards.keys[1].meta, "test_offset_ms", offset_ms)
    else:
        now = time.time
        monkeypatch.setattr(clock_reset.time, "time", lambda: now() + offset_ms / 1000)
    before = await dump(stack)

    with pytest.raises(NotReset, match=f"the clock of {whose}.* 3[56].* ms .* Postgres's"):
        await reset_clocks(stack.state, None, "why", "cli:alice")

    assert await dump(stack) == before
    assert await incidents(stack, "clock_reset") == []


async def test_script_changes_nothing_unless_all_is_as_it_was_looked_at(stack: Stack) -> None:
    """Given a caller that was stopped, or looked at another generation, or a shard that is not
    ahead, I expect every key to stay."""

    async def call(number: int, nonce: str, taken_ms: int) -> tuple[Code, list[object]]:
        keys = stack.shards.keys[number].of_shard()[:3]
        return await stack.shards.run(number, "clock_reset", nonce, keys, [taken_ms])

    await lived_ahead(stack, (0,))
    now_ms, nonce = int(time.time() * 1000), stack.state.rows[0].nonce
    before = await dump(stack, b"lease:new", b"lease:finish")
    leases = await stack.command("EXISTS", *stack.shards.keys[0].of_shard()[1:3])

    assert await call(0, nonce, now_ms - 60_000) == (Code.CLOCK, [])
    assert await call(0, nonce, now_ms + 60_000) == (Code.CLOCK, [])
    assert await call(1, nonce, now_ms) == (Code.OK, [0])
    await stack.command("HSET", stack.shards.keys[1].meta, "nonce", "f" * 32)
    assert await call(1, nonce, now_ms) == (Code.FENCED, [])
    await stack.command("HSET", stack.shards.keys[1].meta, "nonce", nonce)

    assert await dump(stack, b"lease:new", b"lease:finish") == before
    assert await stack.command("EXISTS", *stack.shards.keys[0].of_shard()[1:3]) == leases == 2


async def test_command_asks_for_a_reason_and_says_what_it_did(stack: Stack) -> None:
    await lived_ahead(stack)
    words = ("holdfast", "clock", "reset")
    settings = {"test_clock": True}
    for wrong in ((), ("--all",), ("--all", "--reason", " "), ("2", "--reason", "why")):
        code, printed, _ = await outcome(stack, *words, *wrong, "--yes", **settings)
        assert (code, printed) == (64, "")
    assert len(await shards_ahead(stack.state)) == SHARDS

    arguments = (*words, "--all", "--reason", "a wrong server", "--by", "bob", "--yes", "--json")
    code, printed, said = await outcome(stack, *arguments, **settings)
    assert code == 0, said
    assert [each["number"] for each in json.loads(printed)["shards"]] == [0, 1]
    (incident,) = await incidents(stack, "clock_reset")
    assert json.loads(incident["details"])["asked_by"] == "cli:bob"
    code, printed, said = await outcome(stack, *arguments[:-1], **settings)
    assert code == 0, said
    assert "nothing was changed" in printed


async def test_claims_that_were_made_ahead_of_time_are_over(stack: Stack) -> None:
    """Given a worker that died while Postgres's clock was a day ahead, I expect the next one to
    take all of its shards at once."""
    dead, alive = (Claims(other_worker(stack, name)) for name in ("dead", "alive"))
    await stack.pool.execute("UPDATE shard SET claimed_until = '-infinity'")
    await dead.round()
    await stack.pool.execute(
        "UPDATE shard SET claimed_until = claimed_until + interval '1 day';"
        "UPDATE worker SET seen_at = seen_at + interval '1 day'"
    )
    await alive.round()
    assert [row.number for row in alive.state.claimed()] == [0, 1]
    assert await stack.pool.fetchval("SELECT array_agg(id) FROM worker") == ["alive"]
