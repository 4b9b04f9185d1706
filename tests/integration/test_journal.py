"""Settling: every entry once, the tables where Redis is, and nothing where it does not fit."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import orjson
import pytest

from holdfast.embedded import Postgres, Valkey
from settlement import journal, quarantine
from settlement.journal import Fenced, JournalForked, ShardBatch
from settlement.quarantine import QuarantineError
from tests.stack import Stack
from tests.vetted import until

SUMS = ("available", "held", "granted", "refunded", "spent", "forfeited", "base", "debt")
SETTINGS = ("overdraft_limit", "daily_limit", "monthly_limit", "max_hold", "max_open_holds")


@pytest.fixture
async def stack(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    async with Stack(valkey_server.url, postgres_server.url, shards=2) as one:
        yield one


def accounts_of(stack: Stack, number: int, count: int) -> list[str]:
    """Names of accounts that live in one shard."""
    names = (f"account-{i}" for i in range(10_000))
    return [name for name in names if stack.shards.number_of(name) == number][:count]


async def assert_as_in_redis(stack: Stack, account: str) -> None:
    """The tables say of an account what its keys in Redis say."""
    acct = await stack.acct(account)
    row = await stack.row("account", account=account)
    assert row is not None
    for name in (*SUMS, "version", "last_seq", "last_grant_seq", "last_refund_seq"):
        assert row[name] == int(acct.get(name, 0)), name
    for name in SETTINGS:
        assert row[name] == (int(acct[name]) if name in acct else None), name
    assert (row["status"], row["plan"]) == (acct["status"], acct.get("plan"))
    grants = {g["id"]: g for g in await stack.rows("account_grant", account=account)}
    assert {n[2:]: v for n, v in acct.items() if n.startswith("g:")} == {
        name: f"{g['expires_at'].timestamp() * 1000:.0f} {g['priority']} {g['remaining']}"
        for name, g in grants.items()
    }
    shard = stack.shards.keys[stack.shards.number_of(account)]
    held = []
    for record in await stack.rows("record", account=account):
        fields = orjson.loads(record["fields"])
        assert fields == await stack.hash(shard.record(account, record["key"]))
        for name in ("amount", "committed", "remaining", "refunded", "uncollected"):
            assert record[name] == int(fields.get(name, 0)), name
        assert (record["kind"], record["state"]) == (fields["kind"], fields.get("state"))
        for column, name in (("made_at", "made"), ("deadline", "deadline"), ("ended_at", "ended")):
            at = record[column]
            assert (at and round(at.timestamp() * 1000)) == (
                int(fields[name]) if name in fields else None
            )
        if record["state"] == "held":
            held.append(record["key"])
    assert sorted(held) == sorted(
        key.decode() for key in await stack.command("ZRANGE", shard.open(account), 0, -1)
    )


async def every_transition(stack: Stack, account: str) -> None:
    now_ms = int(time.time() * 1000)
    await stack.open(account, "plan", "pro", "overdraft_limit", "50", grant=1000)
    await stack.grant(account, "promo", 100, expires_ms=now_ms + 3_600_000)
    await stack.grant(account, "short", 7, expires_ms=now_ms + 700_000)
    await stack.member(account, "bob", "5000", "", "900")
    more = {"member": "bob", "metadata": '{"a":"x\\"y"}', "model": "a/large"}
    await stack.reserve(account, "h1", 140, **more)
    await stack.extend(account, "h1", ttl_ms=950_000, add=5, op_key="more")
    await stack.commit(account, "h1", 5, final=False, op_key="part")
    await stack.reserve(account, "h2", 30)
    await stack.release(account, "h2")
    await stack.commit(account, "h1", 13)
    await stack.refund(account, "r1", "h1", 3)
    await stack.charge(account, "c1", 20, member="bob")
    await stack.refund(account, "r2", "c1")
    await stack.adjust(account, "a1", -3)
    await stack.reserve(account, "h3", 10)
    await stack.settings(account, "plan", "", "daily_limit", "99999", "models", "a/large b")
    await stack.settings(account, "status", "frozen")


@pytest.mark.parametrize("batches", ["one", "one each"])
async def test_every_transition_settles(stack: Stack, batches: str) -> None:
    """Given every kind of transition, If they are settled together or one by one, I expect the
    tables to be what Redis is."""
    await every_transition(stack, "acme")
    number = stack.shards.number_of("acme")
    batch = await stack.batch(number)
    parts = [batch] if batches == "one" else one_each(batch)

    async with stack.pool.acquire() as conn:
        for part in parts:
            (outcome,) = await journal.settle(conn, [part])
            assert outcome.error is None

    await assert_as_in_redis(stack, "acme")
    rows = await stack.rows("journal", shard=number)
    assert [row["seq"] for row in rows] == [entry.seq for entry in batch.entries]
    assert [row["entry"] for row in rows] == [entry.text for entry in batch.entries]
    assert [row["version"] for row in rows] == list(range(1, len(rows) + 1))
    assert not any(row["quarantined"] for row in rows)
    usage = {
        (row["member"], row["model"]): (row["used"], row["spent"], row["calls"])
        for row in await stack.rows("usage", account="acme")
    }
    # bob: 18 of h1 and 20 of c1; nobody: 10 of h3, h2 came back.
    assert usage == {
        ("bob", "a/large"): (18, 18, 1),
        ("bob", ""): (20, 20, 1),
        ("", ""): (10, 0, 2),
    }
    member = await stack.row("member", account="acme", member="bob")
    assert member is not None
    assert (member["daily_limit"], member["monthly_limit"], member["max_hold"]) == (5000, None, 900)


def one_each(batch: ShardBatch) -> list[ShardBatch]:
    return [replace(batch, mark=entry.seq - 1, entries=[entry]) for entry in batch.entries]


async def test_a_journal_row_says_what_its_entry_says(stack: Stack) -> None:
    await stack.open("acme", grant=100)
    await stack.reserve("acme", "h1", 40, member="bob")
    await stack.commit("acme", "h1", 13, final=False, op_key="p1")
    await stack.settle()

    reserve, commit = (await stack.rows("journal", account="acme"))[2:]
    assert (reserve["type"], reserve["hold"], reserve["key"]) == ("reserve", "h1", "h1")
    assert (reserve["member"], reserve["amount"]) == ("bob", 40)
    assert (reserve["available"], reserve["held"]) == (60, 40)
    assert (commit["type"], commit["hold"], commit["key"]) == ("commit", "h1", "p1")
    at_ms = int(json.loads(reserve["entry"])["at"])
    assert round(reserve["at"].timestamp() * 1000) == at_ms


async def test_expiry_and_forfeit_settle(valkey_server: Valkey, postgres_server: Postgres) -> None:
    async with Stack(valkey_server.url, postgres_server.url, shards=1, test_clock=True) as stack:
        now_ms = int(time.time() * 1000)
        await stack.open("acme", grant=100)
        await stack.grant("acme", "g1", 50, expires_ms=now_ms + 10_000)
        await stack.reserve("acme", "h1", 60, ttl_ms=20_000)
        await stack.reserve("acme", "h2", 20, ttl_ms=5_000)
        await stack.command("HSET", stack.shards.keys[0].meta, "test_offset_ms", 30_000)
        await stack.expire("acme", "h1", "h2")
        await stack.commit("acme", "h2", 5)  # late

        await stack.settle()

        await assert_as_in_redis(stack, "acme")
        kinds = [row["type"] for row in await stack.rows("journal", account="acme")]
        assert "forfeit" in kinds
        assert kinds[-1] == "commit"
        row = await stack.row("account", account="acme")
        assert row is not None
        assert row["forfeited"] == 50


async def test_shards_share_a_transaction(stack: Stack) -> None:
    names = [accounts_of(stack, number, 1)[0] for number in (0, 1)]
    for name in names:
        await stack.open(name, grant=10)
    batches = [await stack.batch(number) for number in (1, 0)]

    async with stack.pool.acquire() as conn:
        outcomes = await journal.settle(conn, batches)

    assert [(o.number, o.mark, o.error) for o in outcomes] == [(0, 2, None), (1, 2, None)]
    transactions = await stack.pool.fetch("SELECT DISTINCT xmin::text FROM journal")
    assert len(transactions) == 1
    assert {r["id"]: r["mark"] for r in await stack.rows("shard")} == {0: 2, 1: 2}


async def test_who_waits_is_told(stack: Stack) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    listener = await asyncpg.connect(stack.config.database_url)
    await listener.add_listener("holdfast_settled", lambda *args: told.put_nowait(args[-1]))
    for number in (0, 1):
        await stack.open(accounts_of(stack, number, 1)[0])

    async with stack.pool.acquire() as conn:
        await journal.settle(conn, [await stack.batch(number) for number in (0, 1)])

    assert await asyncio.wait_for(told.get(), 10) == "0:1 1:1"
    await listener.close()


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": "0" * 32},
        {"generation": 99},
        {"state": "vetting"},
        {"mark": 1, "chain": "a" * 40},
    ],
)
async def test_a_shard_that_moved_on_is_fenced(stack: Stack, change: dict[str, Any]) -> None:
    """Given a batch, If its shard is in another life, state or place, I expect nothing of it to be
    written, and the other shard of the same call to settle."""
    names = [accounts_of(stack, number, 1)[0] for number in (0, 1)]
    for name in names:
        await stack.open(name, grant=10)
    batches = [await stack.batch(number) for number in (0, 1)]
    terms = ", ".join(f"{name} = ${place}" for place, name in enumerate(change, start=1))
    await stack.pool.execute(f"UPDATE shard SET {terms} WHERE id = 0", *change.values())

    async with stack.pool.acquire() as conn:
        fenced, settled = await journal.settle(conn, batches)

    assert isinstance(fenced.error, Fenced)
    assert (settled.mark, settled.error) == (2, None)
    assert await stack.rows("journal", shard=0) == []
    assert await stack.row("account", account=names[0]) is None
    assert len(await stack.rows("journal", shard=1)) == 2


async def test_the_caller_says_in_which_states_it_may_settle(stack: Stack) -> None:
    await stack.open("acme")
    batch = await stack.batch(stack.shards.number_of("acme"))
    await stack.pool.execute("UPDATE shard SET state = 'vetting'")

    async with stack.pool.acquire() as conn:
        (outcome,) = await journal.settle(conn, [batch], states=("vetting",))

    assert outcome.error is None


async def test_two_workers_settle_the_same_batch_once(stack: Stack) -> None:
    await every_transition(stack, "acme")
    batch = await stack.batch(stack.shards.number_of("acme"))

    async def settle() -> journal.Outcome:
        async with stack.pool.acquire() as conn:
            (outcome,) = await journal.settle(conn, [batch])
            return outcome

    outcomes = await asyncio.gather(*(settle() for _ in range(4)))

    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    assert len(errors) == 3
    assert all(isinstance(error, Fenced) for error in errors)
    assert len(await stack.rows("journal")) == len(batch.entries)
    assert await stack.rows("quarantine") == []
    await assert_as_in_redis(stack, "acme")


async def test_numbers_that_the_journal_has_are_compared(stack: Stack) -> None:
    """Given a journal that is ahead of its mark, If the same entries come, they are taken; if
    others come under their numbers, nothing is."""
    await stack.open("acme", grant=100)
    number = stack.shards.number_of("acme")
    batch = await stack.batch(number)
    columns = "shard, seq, at, account, version, type, available, held, chain, entry"
    await stack.settle()
    await stack.pool.execute("CREATE TABLE kept AS SELECT * FROM journal")
    await stack.pool.execute("DELETE FROM account; DELETE FROM record; DELETE FROM usage")
    await stack.pool.execute("UPDATE shard SET mark = 0, chain = ''")

    async with stack.pool.acquire() as conn:
        (same,) = await journal.settle(conn, [batch])
    assert same.error is None
    assert len(await stack.rows("journal")) == 2
    await assert_as_in_redis(stack, "acme")

    await stack.pool.execute("DELETE FROM account; DELETE FROM record; DELETE FROM usage")
    await stack.pool.execute("UPDATE shard SET mark = 0, chain = ''; DELETE FROM journal")
    await stack.pool.execute(
        f"INSERT INTO journal ({columns}) SELECT shard, seq, at, account, version, type, available,"
        " held, repeat('e', 40), entry FROM kept WHERE seq = 2"
    )
    async with stack.pool.acquire() as conn:
        (other,) = await journal.settle(conn, [batch])
    assert isinstance(other.error, JournalForked)
    assert len(await stack.rows("journal")) == 1
    assert await stack.rows("account") == []


async def test_a_lost_connection_discards_the_batch(stack: Stack) -> None:
    await every_transition(stack, "acme")
    batch = await stack.batch(stack.shards.number_of("acme"))
    async with stack.pool.acquire() as blocker, stack.pool.acquire() as conn:
        pid = conn.get_server_pid()
        lock = blocker.transaction()
        await lock.start()
        await blocker.execute("LOCK TABLE usage")  # the settle waits in its middle
        settling = asyncio.create_task(journal.settle(conn, [batch]))

        async def waits() -> bool:
            state = "SELECT wait_event_type FROM pg_stat_activity WHERE pid = $1"
            return bool(await blocker.fetchval(state, pid) == "Lock")

        await until(waits)
        await blocker.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError)):
            await settling
        await lock.rollback()

    assert await stack.rows("journal") == []
    await stack.settle()
    await assert_as_in_redis(stack, "acme")


# --- What Postgres rejects


async def spoiled(stack: Stack, number: int = 0) -> tuple[str, str]:
    """Two accounts of a shard with entries between each other's; one has a poison entry (its text
    cannot be read) in the middle, and goes on after it."""
    bad, good = accounts_of(stack, number, 2)
    for name in (bad, good):
        await stack.open(name, grant=100)
    await stack.reserve(bad, "h1", 40)
    await stack.reserve(good, "h1", 40)
    acct = stack.shards.keys[number].acct(bad)
    await stack.forge(number, f'{{"type":"settings","account":"{bad}","seq":"x"}}'.encode())
    await stack.command("HINCRBY", acct, "version", 1)
    await stack.commit(good, "h1", 13)
    await stack.commit(bad, "h1", 10)
    await stack.reserve(good, "h2", 5)
    return bad, good


def mended(stack: Stack, bad: str) -> str:
    """What the poison entry of `spoiled` should have said."""
    entry = {
        "type": "settings",
        "account": bad,
        "seq": "7",
        "version": "4",
        "at": "1795176000000",
        "available": "60",
        "held": "40",
        "settings": ["plan", "mended"],
        "context": {},
    }
    return json.dumps(entry)


async def test_a_rejected_entry_is_alone_in_quarantine(stack: Stack) -> None:
    """Given an entry that cannot be applied among others, I expect the others to settle, the
    account's later ones to be diverted, and an incident."""
    bad, good = await spoiled(stack)

    (outcome,) = await stack.settle()

    assert (outcome.error, outcome.quarantined) == (None, (bad,))
    assert outcome.mark == 10
    await assert_as_in_redis(stack, good)
    rows = await stack.rows("journal", shard=0)
    assert [row["seq"] for row in rows] == list(range(1, 11))
    assert [row["seq"] for row in rows if row["quarantined"]] == [7, 9]
    first, second = await stack.rows("quarantine")
    assert (first["origin"], first["seq"], first["account"]) == ("rejected", 7, bad)
    assert "unreadable" in first["error"]
    assert (second["origin"], second["seq"], second["account"]) == ("follows", 9, bad)
    account = await stack.row("account", account=bad)
    assert account is not None
    assert (account["quarantined"], account["version"]) == (True, 3)
    (incident,) = await stack.rows("incident")
    assert (incident["kind"], incident["account"], incident["shard"]) == ("quarantine", bad, 0)

    # Later batches divert as well.
    await stack.release(good, "h2")
    await stack.grant(bad, "g9", 1)
    await stack.settle()
    await assert_as_in_redis(stack, good)
    assert [row["seq"] for row in await stack.rows("quarantine")] == [7, 9, 12]


async def test_what_a_constraint_rejects_is_quarantined(stack: Stack) -> None:
    bad, good = accounts_of(stack, 0, 2)
    await stack.pool.execute("ALTER TABLE record ADD CHECK (amount <> 666)")
    for name in (good, bad):
        await stack.open(name, grant=1000)
        await stack.reserve(name, "h1", 666 if name == bad else 665)

    (outcome,) = await stack.settle()

    assert outcome.quarantined == (bad,)
    await assert_as_in_redis(stack, good)
    (kept,) = await stack.rows("quarantine")
    assert "CheckViolation" in kept["error"]


async def test_books_that_do_not_agree_are_quarantined(stack: Stack) -> None:
    """Given an account whose row is not what its next entry starts from."""
    await stack.open("acme", grant=100)
    await stack.settle()
    await stack.pool.execute("UPDATE account SET available = 90, base = 90, granted = 90")
    await stack.reserve("acme", "h1", 40)

    (outcome,) = await stack.settle()

    assert outcome.quarantined == ("acme",)
    (kept,) = await stack.rows("quarantine")
    assert "has version 2, available 90 and held 0; entry version 3 starts" in kept["error"]


async def test_many_rejected_accounts_stop_nobody(stack: Stack) -> None:
    names = accounts_of(stack, 0, 8)
    await stack.pool.execute("ALTER TABLE record ADD CHECK (amount <> 666)")
    for name in names:
        await stack.open(name, grant=1000)
    for place, name in enumerate(names):
        await stack.reserve(name, "h1", 666 if place % 2 else 1)
        await stack.commit(name, "h1")

    (outcome,) = await stack.settle()

    assert outcome.error is None
    assert outcome.mark == 32
    assert sorted(outcome.quarantined) == sorted(names[1::2])
    for name in names[::2]:
        await assert_as_in_redis(stack, name)


async def test_an_entry_that_names_nobody_is_kept(stack: Stack) -> None:
    await stack.forge(0, b"\xff not even text")

    (outcome,) = await stack.settle()

    assert outcome.error is None
    (row,) = await stack.rows("journal", shard=0)
    assert (row["account"], row["quarantined"], row["type"]) == ("", True, "rejected")
    (kept,) = await stack.rows("quarantine")
    with pytest.raises(QuarantineError, match="does not tell its account"):
        await quarantine.apply(stack.pool, kept["id"], "op")
    assert await quarantine.void(stack.pool, [kept["id"]], "garbage", "op") == 1
    (kept,) = await stack.rows("quarantine")
    assert kept["state"] == "voided"


# --- The way out of quarantine


async def test_a_mended_entry_is_applied_with_all_that_follows(stack: Stack) -> None:
    bad, _ = await spoiled(stack)
    await stack.settle()
    first, _ = await stack.rows("quarantine")
    await stack.command(
        "HSET", stack.shards.keys[0].acct(bad), "plan", "mended"
    )  # what the entry should have said is what Redis has

    with pytest.raises(QuarantineError, match="unreadable"):
        await quarantine.apply(stack.pool, first["id"], "op")
    with pytest.raises(QuarantineError, match="no entry"):
        await quarantine.mend(stack.pool, first["id"], "{}", "op")
    await quarantine.mend(stack.pool, first["id"], mended(stack, bad), "op")
    assert await quarantine.apply(stack.pool, first["id"], "op") == 2

    await assert_as_in_redis(stack, bad)
    rows = await stack.rows("journal", account=bad)
    assert not any(row["quarantined"] for row in rows)
    assert [row["version"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[3]["entry"] == first["entry"]  # the chain is computed over it
    assert {row["state"] for row in await stack.rows("quarantine")} == {"applied"}
    kinds = [(row["kind"], row["closed_by"]) for row in await stack.rows("incident")]
    assert kinds == [
        ("quarantine", "op"),
        ("quarantine_ended", None),
        ("quarantine_ended", None),
    ]
    await stack.grant(bad, "g9", 1)
    await stack.settle()
    await assert_as_in_redis(stack, bad)


async def test_a_release_that_was_wrong_applies_what_it_rejected(stack: Stack) -> None:
    await stack.pool.execute("ALTER TABLE record ADD CONSTRAINT wrong CHECK (amount <> 666)")
    await stack.open("acme", grant=1000)
    await stack.reserve("acme", "h1", 666)
    await stack.commit("acme", "h1")
    await stack.settle()
    first, _ = await stack.rows("quarantine")

    with pytest.raises(QuarantineError, match="nothing was changed"):
        await quarantine.apply(stack.pool, first["id"], "op")
    assert {row["state"] for row in await stack.rows("quarantine")} == {"open"}
    await stack.pool.execute("ALTER TABLE record DROP CONSTRAINT wrong")
    assert await quarantine.apply(stack.pool, first["id"], "op") == 2

    await assert_as_in_redis(stack, "acme")
    with pytest.raises(QuarantineError, match="no open entry"):
        await quarantine.apply(stack.pool, first["id"], "op")


async def test_a_void_believes_the_balances_of_redis(stack: Stack) -> None:
    """Given books that do not agree, If the entry is voided, I expect the balances that Redis has,
    the difference in `granted`, and the account's row to go on from there."""
    await stack.open("acme", grant=100)
    await stack.settle()
    await stack.pool.execute("UPDATE account SET available = 90, base = 90, granted = 90")
    await stack.reserve("acme", "h1", 40)
    await stack.settle()
    (kept,) = await stack.rows("quarantine")

    assert await quarantine.void(stack.pool, [kept["id"]], "books were wrong", "op") == 1

    await assert_as_in_redis(stack, "acme")
    (kept,) = await stack.rows("quarantine")
    assert (kept["state"], kept["ended_by"]) == ("voided", "op")
    assert json.loads(kept["correction"]) == {
        **{"base": -30, "debt": 0, "held": 40, "granted": 10},
        **{"version": 3, "available": 60},
    }
    await stack.commit("acme", "h1", 13)
    await stack.settle()
    await assert_as_in_redis(stack, "acme")


async def test_a_void_of_what_cannot_be_read_goes_by_what_follows(stack: Stack) -> None:
    bad, _ = await spoiled(stack)
    await stack.settle()
    first, _ = await stack.rows("quarantine")

    assert await quarantine.void(stack.pool, [first["id"]], "lost", "op") == 2

    await assert_as_in_redis(stack, bad)
    states = [row["state"] for row in await stack.rows("quarantine")]
    assert states == ["voided", "applied"]


async def test_a_void_that_nothing_tells_about_changes_nothing(stack: Stack) -> None:
    await stack.open("acme", grant=100)
    await stack.forge(stack.shards.number_of("acme"), b'{"account":"acme"')
    await stack.settle()
    (kept,) = await stack.rows("quarantine")

    with pytest.raises(QuarantineError, match="nothing tells"):
        await quarantine.void(stack.pool, [kept["id"]], "lost", "op")

    (kept,) = await stack.rows("quarantine")
    assert kept["state"] == "open"


async def test_an_apply_and_a_settle_do_not_pass_each_other(stack: Stack) -> None:
    """Given an account in quarantine, If it is applied while more of its entries settle, I expect
    none of them to be left in quarantine, and none to be applied twice."""
    await stack.pool.execute("ALTER TABLE record ADD CONSTRAINT wrong CHECK (amount <> 666)")
    await stack.open("acme", grant=1000)
    await stack.reserve("acme", "h1", 666)
    await stack.settle()
    (first,) = await stack.rows("quarantine")
    await stack.pool.execute("ALTER TABLE record DROP CONSTRAINT wrong")
    number = stack.shards.number_of("acme")

    async def spend() -> None:
        for place in range(10):
            await stack.grant("acme", f"g{place}", 1)
            batch = await stack.batch(number)
            async with stack.pool.acquire() as conn:
                await journal.settle(conn, [batch])
            await stack.state.refresh([number], force=True)

    await asyncio.gather(spend(), quarantine.apply(stack.pool, first["id"], "op"))

    assert all(row["state"] == "applied" for row in await stack.rows("quarantine"))
    await assert_as_in_redis(stack, "acme")


async def test_an_account_in_quarantine_is_frozen_in_redis(stack: Stack) -> None:
    bad, good = await spoiled(stack)
    await stack.settle()
    freezer = quarantine.Freezer(stack.state, asyncio.Event())

    await freezer.round()
    await freezer.round()

    assert (await stack.acct(bad))["status"] == "frozen"
    assert (await stack.acct(good))["status"] == "active"
    entries = await stack.entries(0)
    assert [(entry.type, entry.account) for entry in entries] == [("freeze", bad)]
    assert '"actor":"worker"' in entries[0].text
