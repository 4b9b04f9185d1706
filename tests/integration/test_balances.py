"""Thresholds of balances: told once per fall, with the entries that settle, by real scripts."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any

import orjson
import pytest
import pytest_asyncio

from holdfast.embedded import Postgres, Valkey
from settlement import quarantine
from settlement.journal import Fenced, settle
from settlement.queries import sql as statement
from tests.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="module")
module_fixture: Callable[..., Any] = pytest_asyncio.fixture(scope="module", loop_scope="module")

_accounts = count(1)


@module_fixture
async def stack(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    """One shard, so that a settle is one transaction; somebody listens to all levels."""
    async with Stack(valkey_server.url, postgres_server.url, shards=1) as stack:
        await stack.pool.execute(
            "INSERT INTO endpoint (url, kinds, secret) VALUES ('https://example.com',"
            " '{balance.low,balance.critical,balance.empty}', 's')"
        )
        yield stack


@pytest.fixture
def name() -> str:
    return f"acme:{next(_accounts)}"


async def told(stack: Stack, account: str) -> list[str]:
    """The kinds of what was told of an account, as it was."""
    rows = await stack.pool.fetch(
        "SELECT kind, (data ->> 'version')::bigint AS version, data FROM event WHERE account = $1"
        " ORDER BY version, (data ->> 'threshold')::bigint DESC",
        account,
    )
    return [row["kind"].removeprefix("balance.") for row in rows]


async def level(stack: Stack, account: str) -> str:
    row = await stack.row("account", account=account)
    assert row is not None
    found: str = row["balance_level"]
    return found


class Spender:
    """An account that had 1,000 and is told of below 400 (critical: below 100), all settled."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.stack, self.name = stack, name
        self._keys = (f"k{number}" for number in count(1))

    async def moves(self, *amounts: int) -> None:
        """Take these amounts, or give them where they are negative, and settle all at once."""
        for amount in amounts:
            if amount > 0:
                await self.stack.charge(self.name, next(self._keys), amount)
            else:
                await self.stack.grant(self.name, next(self._keys), -amount)
        await self.settles()

    async def settles(self) -> None:
        outcomes = await self.stack.settle()
        assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)

    async def told(self) -> list[str]:
        return await told(self.stack, self.name)

    async def level(self) -> str:
        return await level(self.stack, self.name)


@pytest_asyncio.fixture(loop_scope="module")
async def spender(stack: Stack, name: str) -> Spender:
    await stack.open(name, "low_balance", "400", grant=1_000)
    made = Spender(stack, name)
    await made.settles()
    return made


# ── where the levels are ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("was", "low_balance", "available", "expected"),
    [
        # Downwards, at once.
        ("ok", 400, 400, "ok"),
        ("ok", 400, 399, "low"),
        ("ok", 400, 100, "low"),
        ("ok", 400, 99, "critical"),
        ("low", 400, 1, "critical"),
        ("ok", 400, 0, "empty"),
        ("critical", 400, -7, "empty"),
        # Upwards, a tenth of low_balance above the threshold.
        ("low", 400, 439, "low"),
        ("low", 400, 440, "ok"),
        ("critical", 400, 139, "critical"),
        ("critical", 400, 140, "low"),
        ("empty", 400, 40, "empty"),
        ("empty", 400, 41, "critical"),
        ("empty", 400, 439, "low"),
        ("empty", 400, 440, "ok"),
        # Thresholds that are small, or none.
        ("ok", 3, 2, "low"),
        ("low", 3, 3, "ok"),
        ("ok", 3, 0, "empty"),
        ("ok", 0, 1, "ok"),
        ("ok", 0, 0, "empty"),
        ("empty", 0, 1, "ok"),
        ("ok", 9 * 10**15, -9 * 10**15, "empty"),
    ],
)
async def test_where_the_levels_are(
    stack: Stack, was: str, low_balance: int, available: int, expected: str
) -> None:
    found = await stack.pool.fetchval(
        "SELECT balance_level_of($1::text::balance_level, $2, $3)::text",
        *(was, low_balance, available),
    )
    assert found == expected


# ── what is told ─────────────────────────────────────────────────────────────────────────────────


async def test_each_threshold_is_told_once_on_the_way_down(stack: Stack, spender: Spender) -> None:
    for amount in (600, 1, 200, 99, 1, 50, 48, 1):
        await spender.moves(amount)
    assert await spender.told() == ["low", "critical", "empty"]
    assert await spender.level() == "empty"

    rows = await stack.pool.fetch(
        "SELECT data, once FROM event WHERE account = $1 ORDER BY at", spender.name
    )
    data = [orjson.loads(row["data"]) for row in rows]
    assert [(each["available"], each["threshold"]) for each in data] == [
        (399, 400),
        (99, 100),
        (0, 1),
    ]
    assert {(each["low_balance"], each["held"]) for each in data} == {(400, 0)}
    assert [row["once"] for row in rows] == [
        f"balance:{spender.name}:{each['version']}:balance.{kind}"
        for each, kind in zip(data, ("low", "critical", "empty"), strict=True)
    ]


async def test_a_fall_through_all_of_them_tells_of_each(spender: Spender) -> None:
    await spender.moves(1_000)
    assert await spender.told() == ["low", "critical", "empty"]


async def test_a_threshold_is_armed_again_only_above_its_margin(spender: Spender) -> None:
    await spender.moves(601)  # 399
    await spender.moves(-40)  # 439: not high enough
    await spender.moves(40)
    assert await spender.told() == ["low"]
    await spender.moves(-41)  # 440
    assert await spender.level() == "ok"
    await spender.moves(41)
    assert await spender.told() == ["low", "low"]


async def test_a_hold_counts_as_it_leaves_what_is_available(stack: Stack, spender: Spender) -> None:
    await stack.reserve(spender.name, "h", 700)
    await spender.settles()
    assert await spender.told() == ["low"]
    await stack.release(spender.name, "h")
    await spender.settles()
    assert await spender.level() == "ok"


async def test_a_batch_counts_by_its_end(spender: Spender) -> None:
    await spender.moves(950, -900)  # 50, then 950
    assert (await spender.told(), await spender.level()) == ([], "ok")
    await spender.moves(-100, 700)
    assert (await spender.told(), await spender.level()) == (["low"], "low")


async def test_a_threshold_counts_for_the_batch_that_sets_it(stack: Stack, name: str) -> None:
    made = Spender(stack, name)
    await stack.open(name, grant=1_000)
    await made.settles()
    await stack.settings(name, "low_balance", "400")
    await made.moves(700)
    assert (await made.told(), await made.level()) == (["low"], "low")


async def test_what_did_not_fall_tells_nothing(stack: Stack, name: str) -> None:
    """An account that is opened without funds, gets some, and is given a threshold above them."""
    made = Spender(stack, name)
    await stack.open(name, "low_balance", "50")
    await made.settles()
    await stack.member(name, "ann", "5")
    await made.settles()
    await made.moves(-100)
    await stack.settings(name, "low_balance", "400")
    await made.settles()
    await stack.settings(name, "plan", "pro")
    await made.settles()
    assert (await made.told(), await made.level()) == ([], "ok")

    await made.moves(1)
    assert (await made.told(), await made.level()) == (["low", "critical"], "critical")


async def test_a_lower_threshold_is_above_what_was_low(stack: Stack, spender: Spender) -> None:
    await spender.moves(601)
    await stack.settings(spender.name, "low_balance", "200")
    await spender.settles()
    await spender.moves(9)  # 390, and above 220
    assert await spender.level() == "ok"
    await spender.moves(191)
    assert await spender.told() == ["low", "low"]


async def test_without_a_threshold_nothing_is_told(stack: Stack, spender: Spender) -> None:
    await spender.moves(601)
    await stack.settings(spender.name, "low_balance", "")
    await spender.settles()
    assert await spender.level() == "ok"
    await spender.moves(399)
    assert (await spender.told(), await spender.level()) == (["low"], "ok")


async def test_a_threshold_of_zero_tells_of_empty_alone(stack: Stack, name: str) -> None:
    await stack.open(name, "low_balance", "0", grant=100)
    made = Spender(stack, name)
    await made.settles()
    await made.moves(99)
    await made.moves(1)
    assert await made.told() == ["empty"]


# ── once, whatever happens ───────────────────────────────────────────────────────────────────────


async def test_two_workers_tell_it_once(stack: Stack, spender: Spender) -> None:
    await stack.charge(spender.name, "c", 700)
    batch = await stack.batch(0)

    async def attempt() -> Any:
        async with stack.pool.acquire() as conn:
            return (await settle(conn, [batch]))[0].error

    errors = await asyncio.gather(attempt(), attempt())
    await stack.state.refresh([0], force=True)

    assert sorted(type(error) is Fenced for error in errors) == [False, True]
    assert (await spender.told(), await spender.level()) == (["low"], "low")


async def test_a_batch_that_is_rolled_back_tells_nothing(stack: Stack, spender: Spender) -> None:
    await stack.charge(spender.name, "c", 700)
    batch = await stack.batch(0)
    batch.nonce = "f" * 32
    async with stack.pool.acquire() as conn:
        [outcome] = await settle(conn, [batch])
    assert isinstance(outcome.error, Fenced)
    assert (await spender.told(), await spender.level()) == ([], "ok")

    await spender.settles()
    assert await spender.told() == ["low"]


async def test_entries_that_settle_again_tell_nothing_new(stack: Stack, spender: Spender) -> None:
    """Given a Postgres that lost a settle and still has its event, If the stream is replayed, I
    expect the event to be there once, under the identity that it had."""
    before = await stack.pool.fetchrow(
        "SELECT to_jsonb(a)::text AS account, s.mark, s.chain FROM account a, shard s"
        " WHERE a.account = $1",
        spender.name,
    )
    await spender.moves(700)
    ids = await stack.pool.fetch("SELECT id FROM event WHERE account = $1", spender.name)
    for table in ("journal", "record", "usage"):
        forget = {"journal": "seq > $2", "record": "key = 'k1' AND $2 > 0", "usage": "$2 > 0"}
        await stack.pool.execute(
            f"DELETE FROM {table} WHERE account = $1 AND {forget[table]}",
            *(spender.name, before["mark"]),
        )
    await stack.pool.execute("DELETE FROM account WHERE account = $1", spender.name)
    await stack.pool.execute(
        "INSERT INTO account SELECT * FROM jsonb_populate_record(NULL::account, $1::text::jsonb)",
        before["account"],
    )
    await stack.pool.execute("UPDATE shard SET mark = $1, chain = $2", *before[1:])
    await stack.state.refresh(force=True)
    assert await spender.level() == "ok"

    await spender.settles()

    assert (await spender.told(), await spender.level()) == (["low"], "low")
    again = await stack.pool.fetch("SELECT id FROM event WHERE account = $1", spender.name)
    assert len(ids) == 1
    assert again == ids


async def test_what_waited_in_quarantine_is_told_when_it_is_applied(
    stack: Stack, spender: Spender
) -> None:
    await stack.forge(0, f'{{"type":"settings","account":"{spender.name}","seq":"x"}}'.encode())
    await stack.charge(spender.name, "c", 700)
    await stack.settle()
    assert (await spender.told(), await spender.level()) == ([], "ok")
    rows = await stack.rows("quarantine", account=spender.name, origin="rejected")

    await quarantine.void(stack.pool, [rows[0]["id"]], "was nothing", "test")

    assert (await spender.told(), await spender.level()) == (["low"], "low")


async def test_a_batch_without_a_crossing_costs_no_statement(
    stack: Stack, spender: Spender
) -> None:
    levels = statement("account_levels")
    async with stack.pool.acquire() as conn:
        asked: list[str] = []
        conn.add_query_logger(lambda record: asked.append(record.query))
        for amount, expected in ((600, 0), (1, 1), (1, 0)):
            asked.clear()
            await stack.charge(spender.name, f"c{len(asked)}-{amount}-{expected}", amount)
            await settle(conn, [await stack.batch(0)])
            await stack.state.refresh([0], force=True)
            assert asked.count(levels) == expected
            assert asked.count(statement("account_update")) == 1
