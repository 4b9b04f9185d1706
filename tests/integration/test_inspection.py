"""Inspect on real stores: what differs is named, what only waits is explained."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from holdfast.embedded import Postgres, Valkey
from holdfast.errors import InvalidRequest, NotFound
from holdfast.inspection import Inspection, inspect_account
from holdfast.standing import Line
from tests.stack import Stack
from tests.vetted import settle_all

HOUR_MS = 3_600_000


@pytest.fixture
async def stack(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    async with Stack(valkey_server.url, postgres_server.url, test_clock=True) as stack:
        yield stack


async def inspect(stack: Stack, account: str = "acme") -> Inspection:
    async with stack.pool.acquire() as conn:
        return await inspect_account(stack.shards, conn, stack.config, account)


def line(found: Inspection, name: str) -> Line:
    return next(each for each in found.lines if each.name == name)


def verdicts(found: Inspection) -> dict[str, str]:
    return {each.name: each.verdict for each in found.lines if each.verdict != "same"}


def said(found: Inspection, words: str) -> bool:
    return any(words in each for each in found.findings)


async def busy(stack: Stack, *, settled: bool) -> None:
    """An account that has done everything there is."""
    await stack.open("acme", "daily_limit", "1000000", "plan", "gold")
    await stack.grant("acme", "g1", 1000)
    await stack.grant("acme", "g2", 500, expires_ms=await stack_now(stack) + HOUR_MS)
    await stack.member("acme", "bob", "700")
    await stack.reserve("acme", "h1", 400, member="bob")
    await stack.reserve("acme", "h2", 100)
    await stack.commit("acme", "h1", 150)
    await stack.refund("acme", "r1", "h1", 50)
    await stack.charge("acme", "c1", 30, member="bob")
    await stack.extend("acme", "h2", add=20, op_key="e1")
    if settled:
        await settle_all(stack)


async def stack_now(stack: Stack) -> int:
    seconds, micros = await stack.command("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


async def test_stores_that_agree(stack: Stack) -> None:
    await busy(stack, settled=True)
    found = await inspect(stack)
    assert (found.differs, verdicts(found), found.findings) == (False, {}, [])
    assert found.summary == "The stores agree."
    assert line(found, "available").redis == str(1500 - 100 - 30 - 120)
    assert line(found, "used_today").redis == line(found, "used_today").postgres
    assert line(found, "member bob").redis == "700 - -"
    assert line(found, "hold h2").redis == "held, amount 120, remaining 120"
    assert [each["type"] for each in found.entries[-2:]] == ["charge", "extend"]
    assert {each.type for each in found.keys} == {"hash", "zset"}
    assert next(k for k in found.keys if k.name.endswith(":h2")).ttl_ms is None
    assert next(k for k in found.keys if k.name.endswith(":h1")).ttl_ms is not None


@pytest.mark.parametrize("first", ["nothing", "some"])
async def test_what_is_not_settled_is_explained(stack: Stack, first: str) -> None:
    """Given entries that wait, I expect every value of Redis to follow from them."""
    if first == "some":
        await stack.open("acme", grant=5)
        await settle_all(stack)
        await stack.settings("acme", "plan", "gold")
        await stack.reserve("acme", "h1", 2)
        await stack.commit("acme", "h1", 1, final=False, op_key="p1")
    else:
        await busy(stack, settled=False)
    found = await inspect(stack)
    assert not found.differs, found.findings
    assert set(verdicts(found).values()) == {"unsettled"}
    assert found.summary == "The stores agree, but for what is not settled yet."
    assert said(found, "to be settled")
    assert len(found.unsettled) == int(line(found, "version").redis or 0) - int(
        line(found, "version").postgres or 0
    )
    await settle_all(stack)
    assert verdicts(await inspect(stack)) == {}


async def test_a_refund_of_what_ended_long_ago_is_explained(stack: Stack) -> None:
    """Given an entry that waits and changes an old record, I expect it to be read by name."""
    await stack.open("acme", grant=1000)
    await stack.charge("acme", "old", 100)
    for number in range(25):  # more than are looked at
        await stack.charge("acme", f"c{number}", 1)
    await settle_all(stack)
    await stack.refund("acme", "r1", "old", 40)
    found = await inspect(stack)
    assert not found.differs, found.findings
    assert line(found, "charge old").verdict == "unsettled"


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("HINCRBY", "acct", "available", 5), "available"),
        (("HSET", "acct", "status", "frozen"), "status"),
        (("HSET", "acct", "g:g2", "1 0 1"), "grant g2"),
        (("HDEL", "acct", "daily_limit"), "daily_limit"),
        (("HINCRBY", "acct", "used_day", 1), "used_today"),
        (("HSET", "record", "remaining", "1"), "hold h2: remaining"),
        (("DEL", "record"), "hold h2"),
        (("ZREM", "open", "h2"), "open hold h2"),
        (("ZADD", "open", 5, "ghost"), "open hold ghost"),
        (("HSET", "members", "bob/limits", "1 1 1"), "member bob"),
    ],
)
async def test_what_differs_is_named(
    stack: Stack, command: tuple[str | int, ...], named: str
) -> None:
    await busy(stack, settled=True)
    keys = stack.shards.keys[stack.shards.number_of("acme")]
    names = {
        "acct": keys.acct("acme"),
        "open": keys.open("acme"),
        "members": keys.members("acme"),
        "record": keys.record("acme", "h2"),
    }
    word, place, *rest = command
    await stack.command(word, names[str(place)], *rest)
    found = await inspect(stack)
    assert found.differs
    assert verdicts(found)[named] == "differs"
    assert named in found.summary


async def test_a_time_to_live_on_an_open_hold_is_wrong(stack: Stack) -> None:
    await busy(stack, settled=True)
    keys = stack.shards.keys[stack.shards.number_of("acme")]
    await stack.command("PEXPIRE", keys.record("acme", "h2"), HOUR_MS)
    found = await inspect(stack)
    assert found.differs
    assert said(found, "time to live")
    assert found.summary.startswith("Something is wrong")


async def test_a_key_of_the_wrong_type_is_told_and_the_rest_is_read(stack: Stack) -> None:
    await busy(stack, settled=True)
    keys = stack.shards.keys[stack.shards.number_of("acme")]
    await stack.command("DEL", keys.members("acme"))
    await stack.command("SET", keys.members("acme"), "x")
    found = await inspect(stack)
    assert said(found, "of the wrong type")
    assert line(found, "available").verdict == "same"


async def test_a_cold_account_is_only_in_postgres(stack: Stack) -> None:
    await stack.open("acme", grant=70)
    await settle_all(stack)
    keys = stack.shards.keys[stack.shards.number_of("acme")]
    await stack.command("DEL", keys.acct("acme"))
    found = await inspect(stack)
    assert not found.differs, found.findings
    assert (line(found, "available").redis, line(found, "available").postgres) == (None, "70")
    assert said(found, "loaded from Postgres when it is next used")


async def test_an_account_that_redis_lost_before_it_was_settled(stack: Stack) -> None:
    await stack.open("acme", grant=70)
    keys = stack.shards.keys[stack.shards.number_of("acme")]
    await stack.command("DEL", keys.acct("acme"))
    found = await inspect(stack)
    assert found.differs
    assert said(found, "Redis has lost its hash")


async def test_a_stream_that_does_not_continue_the_journal(stack: Stack) -> None:
    await busy(stack, settled=False)
    keys = stack.shards.keys[stack.shards.number_of("acme")]
    await stack.command("XDEL", keys.stream, "3-0")
    found = await inspect(stack)
    assert found.differs
    assert said(found, "entry 3 is missing")


async def test_a_shard_that_is_closed_says_why(stack: Stack) -> None:
    await busy(stack, settled=True)
    number = stack.shards.number_of("acme")
    await stack.pool.execute(
        "UPDATE shard SET state = 'vetting', state_reason = 'a test', nonce = '' WHERE id = $1",
        number,
    )
    found = await inspect(stack)
    assert said(found, f"shard {number} is vetting: a test")
    assert said(found, "until a worker has vetted this Redis")
    assert not found.differs


async def test_leases_are_told(stack: Stack) -> None:
    await busy(stack, settled=True)
    keys = stack.shards.keys[stack.shards.number_of("acme")]
    await stack.stop_leases()
    await stack.command("DEL", keys.lease_new)
    found = await inspect(stack)
    assert found.leases["new"] == 0
    assert said(found, "no lease")


async def test_what_is_due_is_told(stack: Stack) -> None:
    await stack.open("acme", grant=100)
    await stack.reserve("acme", "h1", 10, ttl_ms=1000)
    keys = stack.shards.keys[stack.shards.number_of("acme")]
    await settle_all(stack)
    deadline = int((await stack.hash(keys.record("acme", "h1")))["deadline"])
    while await stack_now(stack) <= deadline:
        await stack.command("PING")
    found = await inspect(stack)
    assert said(found, "1 hold or grant is due")
    assert not found.differs, found.findings


async def test_a_busy_account_is_no_difference(stack: Stack) -> None:
    """Given calls and settles that go on meanwhile, I expect every look to find agreement."""
    await stack.open("acme", grant=10**9)
    busy = True

    async def calls(lane: int) -> None:
        number = 0
        while busy:
            key = f"{lane}-{number}"
            await stack.reserve("acme", key, 100, member="bob")
            await stack.commit("acme", key, 60)
            await stack.refund("acme", f"r{key}", key, 10)
            number += 1

    async def settles() -> None:
        while busy:
            await settle_all(stack)

    tasks = [asyncio.create_task(work) for work in (calls(1), calls(2), calls(3), settles())]
    try:
        looks = [await inspect(stack) for _ in range(40)]
    finally:
        busy = False
        await asyncio.gather(*tasks)
    assert [(look.summary, look.findings) for look in looks if look.differs] == []
    assert any(look.unsettled for look in looks)
    assert line(looks[-1], "version").redis != line(looks[0], "version").redis


async def test_nobody_knows_it(stack: Stack) -> None:
    with pytest.raises(NotFound):
        await inspect(stack, "nobody")
    with pytest.raises(InvalidRequest):
        await inspect(stack, "no/body")
