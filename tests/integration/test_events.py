"""Events are written with what they tell of, once, and only where somebody wants to know."""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import orjson
import pytest
import pytest_asyncio

from holdfast.embedded import Postgres, Valkey
from settlement import events, incidents, quarantine
from settlement.events import Event
from tests.stack import Stack
from tests.vetted import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
module_fixture: Callable[..., Any] = pytest_asyncio.fixture(scope="module", loop_scope="module")
fixture: Callable[..., Any] = pytest_asyncio.fixture(loop_scope="module")


@module_fixture
async def shared(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    async with Stack(valkey_server.url, postgres_server.url, shards=1) as stack:
        yield stack


@fixture
async def stack(shared: Stack) -> AsyncIterator[Stack]:
    """The stack of all tests, without events and endpoints of others."""
    await shared.renew_leases()  # the loop stood still since the last test
    yield shared
    await shared.pool.execute("TRUNCATE event, delivery, endpoint")


async def listen(stack: Stack, *kinds: str) -> str:
    """Register an endpoint for these kinds, which nobody serves."""
    found: str = await stack.pool.fetchval(
        "INSERT INTO endpoint (url, kinds, secret) VALUES ('https://example.com', $1, 's')"
        " RETURNING id",
        list(kinds),
    )
    return found


async def emitted(stack: Stack) -> list[dict[str, Any]]:
    """What was emitted, by what makes it unique."""
    rows = await stack.pool.fetch("SELECT * FROM event ORDER BY once")
    return [dict(row) | {"data": orjson.loads(row["data"])} for row in rows]


# Until a grant of a test is over: longer than three calls take, on a machine that is busy.
SOON_MS = 700


async def expire_all(stack: Stack, account: str) -> None:
    """An account of which two holds and a grant are over, and nothing is settled."""
    expires_ms = int(time.time() * 1000) + SOON_MS
    await stack.open(account, grant=100)
    await stack.grant(account, "promo", 50, expires_ms=expires_ms)
    await stack.reserve(account, "h1", 20, member="ann", ttl_ms=SOON_MS)
    await stack.reserve(account, "h2", 120, ttl_ms=SOON_MS)

    async def over() -> bool:
        await stack.expire(account, "h1", "h2")
        return (await stack.acct(account))["available"] == "100"

    await until(over)


# ── emit ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_happening_is_one_event_however_often_it_is_emitted(stack: Stack) -> None:
    await listen(stack, "*")
    async with stack.pool.acquire() as conn:
        for _ in range(2):
            await events.emit(
                conn, kind="balance.low", account="acme", data={"available": 7}, once="low:1"
            )
        await events.emit_all(
            conn, [Event("balance.empty", "acme", {}, once) for once in ("b", "a", "b", "low:1")]
        )

    found = await emitted(stack)
    assert [event["once"] for event in found] == ["a", "b", "low:1"]
    assert found[2]["kind"] == "balance.low" and found[2]["data"] == {"available": 7}
    ids = {event["id"] for event in found}
    assert len(ids) == 3 and all(len(each) == 36 and each.startswith("evt_") for each in ids)


async def test_an_event_that_no_endpoint_takes_is_not_kept(stack: Stack) -> None:
    await listen(stack, "balance.low")
    other = await listen(stack, "balance.empty")
    await stack.pool.execute("UPDATE endpoint SET disabled_at = now() WHERE id = $1", other)
    async with stack.pool.acquire() as conn:
        for kind in ("balance.low", "balance.empty", "hold.expired"):
            await events.emit(conn, kind=kind, account=None, data={}, once=kind)

    assert [event["kind"] for event in await emitted(stack)] == ["balance.low"]


async def test_an_event_of_a_transaction_that_failed_never_was(stack: Stack) -> None:
    await listen(stack, "*")
    async with stack.pool.acquire() as conn:
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with conn.transaction():
                await events.emit(conn, kind="balance.low", account="a", data={}, once="1")
                await conn.execute("SELECT 1 / 0")

    assert await emitted(stack) == []


async def test_a_kind_that_nobody_has_described_is_refused(stack: Stack) -> None:
    async with stack.pool.acquire() as conn:
        with pytest.raises(KeyError):
            await events.emit(conn, kind="surprise", account=None, data={}, once="1")


# ── sources ──────────────────────────────────────────────────────────────────────────────────────


async def test_what_expires_is_told_with_the_entry_that_settles(stack: Stack) -> None:
    await listen(stack, "hold.expired", "grant.expired")
    await expire_all(stack, "alpha")
    assert await emitted(stack) == []
    entries = {entry.seq: entry for entry in await stack.entries(0)}

    await stack.settle()

    found = {event["kind"]: [] for event in await emitted(stack)}
    for event in await emitted(stack):
        entry = entries[int(event["once"].removeprefix("entry:0:"))]
        assert (event["account"], event["data"]["version"]) == ("alpha", entry.version)
        found[event["kind"]].append(event["data"])
    assert {(data["hold"], data["amount"]) for data in found["hold.expired"]} == {
        ("h1", 20),
        ("h2", 120),
    }
    assert sum(data["amount"] for data in found["grant.expired"]) == 50
    assert {data["member"] for data in found["hold.expired"]} == {"ann", None}


async def test_without_an_endpoint_nothing_is_kept_of_what_expires(stack: Stack) -> None:
    await listen(stack, "hold.expired")
    await expire_all(stack, "beta")
    await stack.settle()

    assert {event["kind"] for event in await emitted(stack)} == {"hold.expired"}


async def test_an_event_waits_until_its_entry_is_out_of_quarantine(stack: Stack) -> None:
    await listen(stack, "hold.expired")
    await stack.open("gamma", grant=100)
    await stack.settle()
    await stack.pool.execute("UPDATE account SET version = version + 1 WHERE account = 'gamma'")
    await stack.reserve("gamma", "h1", 20, ttl_ms=1)

    async def over() -> bool:
        await stack.expire("gamma", "h1")
        return (await stack.acct("gamma"))["held"] == "0"

    await until(over)
    await stack.settle()
    assert await emitted(stack) == []

    await stack.pool.execute("UPDATE account SET version = version - 1 WHERE account = 'gamma'")
    number = await stack.pool.fetchval("SELECT min(id) FROM quarantine")
    await quarantine.apply(stack.pool, number, "test")

    assert [event["data"]["hold"] for event in await emitted(stack)] == ["h1"]


async def test_an_incident_is_told_when_it_opens(stack: Stack) -> None:
    await listen(stack, "incident.opened")
    async with stack.pool.acquire() as conn:
        number = await incidents.record(conn, "quarantine", "what it was", shard=3, account="acme")
        lasting = await incidents.begin(conn, "clock", "off", subject="redis")
        assert await incidents.begin(conn, "clock", "still off", subject="redis") is None

    found = {event["once"]: event for event in await emitted(stack)}
    assert found.keys() == {f"incident:{number}", f"incident:{lasting}"}
    assert found[f"incident:{number}"]["account"] == "acme"
    assert found[f"incident:{number}"]["data"] == {
        "incident": number,
        "kind": "quarantine",
        "summary": "what it was",
        "shard": 3,
    }
