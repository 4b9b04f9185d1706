"""Reconcile agrees with stores that agree, and finds every way in which they do not."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.codes import Code
from holdfast.embedded import Postgres, Valkey
from settlement import quarantine
from settlement.reconcile import Report, reconcile
from settlement.worker import SettleLoop
from tests.stack import Stack
from tests.vetted import running

WINDOW_S = 86_400


@pytest.fixture
async def stack(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    async with Stack(valkey_server.url, postgres_server.url, shards=2) as one:
        yield one


async def look(stack: Stack, account: str | None = None, *, full: bool = True) -> Report:
    return await reconcile(stack.pool, stack.shards, window_s=WINDOW_S, account=account, full=full)


def told(report: Report) -> list[tuple[str, str]]:
    return [(finding.check, finding.detail) for finding in report.findings]


async def live(stack: Stack, account: str) -> None:
    """An account with every kind of thing: grants, members, open and ended holds, debt paid."""
    now_ms = int(time.time() * 1000)
    await stack.open(account, "plan", "pro", "overdraft_limit", "50", grant=1000)
    await stack.grant(account, "promo", 300, expires_ms=now_ms + 3_600_000)
    await stack.grant(account, "short", 7, expires_ms=now_ms + 7_000_000)
    await stack.member(account, "bob", "5000", "", "900")
    await stack.reserve(account, "h1", 140, member="bob", metadata='{"a":"x"}', model="a/b")
    await stack.extend(account, "h1", ttl_ms=950_000, add=5, op_key="more")
    await stack.commit(account, "h1", 5, final=False, op_key="part")
    await stack.reserve(account, "h2", 30)
    await stack.release(account, "h2")
    await stack.charge(account, "c1", 20, member="bob")
    await stack.refund(account, "r1", "c1", 3)


async def more(stack: Stack, account: str) -> None:
    """Changes of what `live` left: settled records, settings, grants, a new account's worth."""
    await stack.commit(account, "h1", 13)
    await stack.refund(account, "r2", "c1", 4)
    await stack.reserve(account, "h3", 9)
    await stack.charge(account, "c2", 90)
    await stack.settings(account, "plan", "", "daily_limit", "99999", "models", "a/b c")
    await stack.member(account, "bob")
    await stack.member(account, "eve", "1")
    await stack.adjust(account, "a1", -3)


# --- They agree


@pytest.mark.parametrize("settled", ["all", "some", "nothing"])
@pytest.mark.parametrize("full", [True, False])
async def test_stores_that_agree(stack: Stack, settled: str, full: bool) -> None:
    """Given accounts of which all, some or no entries are settled, I expect no difference."""
    for name in ("acme", "other", "third"):
        await live(stack, name)
    if settled != "nothing":
        await stack.settle()
    for name in ("acme", "new"):
        if name == "new":
            await live(stack, name)
        await more(stack, name)
    if settled == "all":
        await stack.settle()

    report = await look(stack, full=full)

    assert told(report) == []
    assert report.uncompared == []
    assert report.exit_code == 0
    assert report.accounts >= 4
    assert report.marks == {row["id"]: row["mark"] for row in await stack.rows("shard")}
    assert report.unsettled > 0 or settled == "all"


async def test_one_account(stack: Stack) -> None:
    for name in ("acme", "other"):
        await live(stack, name)
    await stack.settle()
    await more(stack, "acme")
    await stack.pool.execute(
        "UPDATE account SET available = available + 1, base = base + 1, granted = granted + 1"
        " WHERE account = 'other'"
    )

    assert (await look(stack, "acme")).exit_code == 0
    assert (await look(stack, "other")).exit_code == 1
    unknown = await look(stack, "nobody")
    assert (unknown.exit_code, unknown.uncompared) == (
        2,
        ["account nobody: neither store knows it"],
    )


async def test_cold_accounts_agree(stack: Stack) -> None:
    await stack.open("acme", grant=100)
    await stack.charge("acme", "c1", 10)
    await stack.settle()
    code, _ = await stack.call("evict", "acme")
    assert code is Code.OK

    report = await look(stack)

    assert told(report) == []
    assert (report.exit_code, report.accounts) == (0, 1)


async def test_an_empty_system_agrees(stack: Stack) -> None:
    assert (await look(stack)).exit_code == 0


async def test_what_moves_is_compared_all_the_same(stack: Stack) -> None:
    """Given accounts that change while they are compared, and a settle loop that follows, I expect
    no difference, and nothing left out."""
    names = [f"account-{number}" for number in range(20)]
    for name in names:
        await live(stack, name)
    await stack.settle()  # an account that Postgres has not heard of is not counted yet

    async def spend() -> None:
        place = 0
        while True:
            place += 1
            await stack.reserve(names[place % 20], f"x{place}", 1)
            await stack.commit(names[place % 20], f"x{place}", 1)
            await asyncio.sleep(0.002)

    async with running(spend(), SettleLoop(stack.state).run()):
        for _ in range(5):
            report = await look(stack)
            assert told(report) == []
            assert report.uncompared == []
            assert report.accounts >= 20


async def test_it_reads_20000_entries_in_one_go(
    valkey_server: Valkey, postgres_server: Postgres
) -> None:
    async with Stack(valkey_server.url, postgres_server.url, shards=1) as stack:
        names = [f"account-{number}" for number in range(100)]
        for name in names:
            await stack.open(name, grant=1_000_000)

        async def spend(name: str) -> None:
            for place in range(99):
                await stack.reserve(name, f"h{place}", 10)
                await stack.commit(name, f"h{place}", 7)

        for start in range(0, 100, 25):
            await asyncio.gather(*map(spend, names[start : start + 25]))
            await stack.settle()

        report = await look(stack)

        assert told(report) == []
        assert (report.exit_code, report.entries, report.accounts) == (0, 20_000, 100)
        assert report.records >= 9_900


# --- They differ

Damage = Callable[[Stack], Awaitable[Any]]


def redis(*words: Any) -> Damage:
    """A command on a key of acme: the second word names it."""

    async def damage(stack: Stack) -> None:
        shard = stack.shards.keys[stack.shards.number_of("acme")]
        keys = {
            "acct": shard.acct("acme"),
            "open": shard.open("acme"),
            "members": shard.members("acme"),
            "due": shard.due,
            "meta": shard.meta,
            "stream": shard.stream,
            "h1": shard.record("acme", "h1"),
            "c1": shard.record("acme", "c1"),
        }
        await stack.command(words[0], keys[words[1]], *words[2:])

    return damage


def postgres(statement: str) -> Damage:
    async def damage(stack: Stack) -> None:
        await stack.pool.execute(statement)

    return damage


ONE = "WHERE account = 'acme'"
IN_REDIS = {
    "available": (redis("HINCRBY", "acct", "available", 1), {"balances", "sums"}),
    "counter": (redis("HINCRBY", "acct", "spent", 5), {"balances", "sums"}),
    "version": (redis("HINCRBY", "acct", "version", 1), {"version"}),
    "last_seq": (redis("HINCRBY", "acct", "last_refund_seq", 1), {"balances"}),
    "setting": (redis("HSET", "acct", "plan", "free"), {"settings"}),
    "status": (redis("HSET", "acct", "status", "closed"), {"settings"}),
    "grant": (redis("HSET", "acct", "g:extra", "1895176000000 0 9"), {"grants", "sums"}),
    "grants": (redis("HSET", "acct", "grants", "9"), {"grants"}),
    "account": (redis("DEL", "acct"), set()),
    "expiry": (redis("EXPIRE", "acct", 9999), {"expires"}),
    "hold's expiry": (redis("EXPIRE", "h1", 9999), {"expires"}),
    "open hold": (redis("ZREM", "open", "h1"), {"open", "held"}),
    "deadline": (redis("ZINCRBY", "open", 1000, "h1"), {"open"}),
    "stray hold": (redis("ZADD", "open", 9, "h9"), {"open"}),
    "record": (redis("HSET", "h1", "remaining", "1"), {"record", "held"}),
    "record's fingerprint": (redis("HSET", "h1", "fp", "x"), {"record"}),
    "lost record": (redis("DEL", "h1"), {"record", "held"}),
    "ended record": (redis("HSET", "c1", "refunded", "0"), {"record"}),
    "member": (redis("HSET", "members", "bob/limits", "1 1 1"), {"members"}),
    "stray member": (redis("HSET", "members", "x/limits", "1 - -"), {"members"}),
    "due": (redis("ZADD", "due", 4_000_000_000_000, "acme"), {"due"}),
    "no due": (redis("ZREM", "due", "acme"), {"due"}),
    "settled": (redis("HINCRBY", "meta", "settled", 100), {"settled"}),
    "seq": (redis("HSET", "meta", "seq", 3), {"seq"}),
    "seq ahead": (redis("HINCRBY", "meta", "seq", 2), {"stream"}),
}
IN_POSTGRES = {
    "granted": (
        postgres(
            "UPDATE account SET available = available + 1, base = base + 1,"
            f" granted = granted + 1 {ONE}"
        ),
        {"fold", "balances"},
    ),
    "swapped": (
        postgres(f"UPDATE account SET granted = granted + 7, spent = spent + 7 {ONE}"),
        {"fold", "balances"},
    ),
    "version": (postgres(f"UPDATE account SET version = version - 1 {ONE}"), {"fold", "version"}),
    "account": (postgres(f"DELETE FROM account {ONE}"), {"fold", "version"}),
    "invented account": (
        postgres(
            "INSERT INTO account (account, shard, status, version, last_seq, opened_at)"
            " SELECT 'ghost', shard, 'active', 1, 1, now() FROM account LIMIT 1"
        ),
        {"fold"},
    ),
    "plan": (postgres(f"UPDATE account SET plan = 'free' {ONE}"), {"settings"}),
    "open hold": (
        postgres(f"DELETE FROM record {ONE} AND key = 'h1'"),
        {"held", "open"},
    ),
    "remaining": (
        postgres(
            "UPDATE record SET remaining = 1, fields = jsonb_set(fields, '{remaining}', '\"1\"')"
            f" {ONE} AND key = 'h1'"
        ),
        {"held", "record"},
    ),
    "fields": (
        postgres(
            f"UPDATE record SET fields = jsonb_set(fields, '{{fp}}', '\"x\"') {ONE} AND key = 'c1'"
        ),
        {"record"},
    ),
    "grant": (
        postgres(f"UPDATE account_grant SET remaining = remaining + 1 {ONE} AND id = 'promo'"),
        None,
    ),
    "member": (postgres(f"UPDATE member SET daily_limit = 1 {ONE}"), {"members"}),
    "entry": (
        postgres(
            "UPDATE journal SET entry = replace(entry, '\"acme\"', '\"acmf\"') WHERE seq = 15"
        ),
        {"chain", "entry", "fold"},
    ),
    "chain": (
        postgres("UPDATE journal SET chain = repeat('a', 40) WHERE seq = 15"),
        {"chain"},
    ),
    "hole": (postgres("DELETE FROM journal WHERE seq = 15"), {"gap", "fold"}),
    "last entry": (
        postgres("DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)"),
        {"mark", "fold"},
    ),
    "column": (postgres("UPDATE journal SET held = 77 WHERE seq = 15"), {"entry"}),
}
IN_POSTGRES["balance"] = (
    postgres(
        "UPDATE account SET available = 1, base = 1, in_grants = 0,"
        f" spent = granted + refunded - forfeited - held - 1 {ONE}"
    ),
    {"fold", "balances", "grants", "sums"},
)
IN_POSTGRES["grant"] = (IN_POSTGRES["grant"][0], {"grants", "sums"})


@pytest.mark.parametrize(
    ("damage", "checks"),
    [*IN_REDIS.values(), *IN_POSTGRES.values()],
    ids=[*(f"redis-{n}" for n in IN_REDIS), *(f"postgres-{n}" for n in IN_POSTGRES)],
)
async def test_damage_is_found(
    valkey_server: Valkey, postgres_server: Postgres, damage: Damage, checks: set[str]
) -> None:
    """Given stores that agree, If one thing of one account is damaged, I expect it to be told under
    the rule that it breaks, and nothing to be told of anybody else."""
    async with Stack(valkey_server.url, postgres_server.url, shards=1) as stack:
        await live(stack, "other")
        await live(stack, "acme")
        await stack.settle()

        await damage(stack)
        before = await everything(stack)
        report = await look(stack)

        assert {finding.check for finding in report.findings} == checks, told(report)
        assert {f.account for f in report.findings} <= {"acme", "acmf", "ghost", None}
        assert report.exit_code == (1 if checks else 0)
        assert await everything(stack) == before  # it never repairs


async def everything(stack: Stack) -> list[Any]:
    """Both stores, but for what leases change."""
    found: list[Any] = []
    for key in sorted(await stack.keys()):
        if not key.endswith((b":meta", b":lease:new", b":lease:finish")):
            found.append((key, await stack.command("DUMP", key)))
    for table in ("account", "record", "journal", "account_grant", "member", "usage", "incident"):
        found.append(await stack.rows(table))
    return found


async def test_an_account_that_redis_lost_before_it_was_settled_is_a_difference(
    stack: Stack,
) -> None:
    await live(stack, "acme")
    await redis("DEL", "acct")(stack)

    report = await look(stack)

    assert {finding.check for finding in report.findings} == {"redis"}


async def test_an_account_that_only_redis_knows_is_a_stray(stack: Stack) -> None:
    await live(stack, "acme")
    await stack.settle()
    ghost = stack.shards.keys[stack.shards.number_of("ghost")].acct("ghost")
    await stack.command("HSET", ghost, "version", 1, "available", 5)

    report = await look(stack)

    assert [(f.check, f.account) for f in report.findings] == [("version", "ghost")]


async def test_a_forged_tail_is_a_difference(stack: Stack) -> None:
    await live(stack, "acme")
    number = stack.shards.number_of("acme")
    await stack.command(
        "XADD", stack.shards.keys[number].stream, "99-0", "entry", "{}", "chain", "x"
    )

    report = await look(stack)

    assert [f.check for f in report.findings] == ["stream"]


# --- They cannot be compared


@pytest.mark.parametrize("state", ["vetting", "rebuilding", "stopped"])
async def test_a_closed_shard_is_not_compared(stack: Stack, state: str) -> None:
    await live(stack, "acme")
    await stack.settle()
    number = stack.shards.number_of("acme")
    await stack.pool.execute("UPDATE shard SET state = $2 WHERE id = $1", number, state)

    report = await look(stack)

    assert (report.exit_code, report.uncompared) == (2, [f"shard {number} is {state}"])
    assert report.entries > 0  # its journal was looked at


async def test_another_generation_is_not_compared(stack: Stack) -> None:
    await live(stack, "acme")
    await stack.settle()
    number = stack.shards.number_of("acme")
    await stack.command("HSET", stack.shards.keys[number].meta, "nonce", "0" * 32)

    report = await look(stack)

    assert report.exit_code == 2
    assert report.uncompared == [f"shard {number}: Redis is in another generation"]


async def test_a_redis_that_is_away_is_not_compared(
    server_dir: Path, postgres_server: Postgres
) -> None:
    with Valkey.start(server_dir / "valkey") as valkey:
        async with Stack(valkey.url, postgres_server.url, shards=2) as stack:
            await live(stack, "acme")
            await stack.settle()
            await stack.stop_leases()
            valkey.kill()

            report = await look(stack)

            assert report.exit_code == 2
            assert report.differences == 0
            assert report.entries > 0
            assert any("redis" in what for what in report.uncompared)


async def test_differences_outrank_what_was_not_compared(stack: Stack) -> None:
    await live(stack, "acme")
    await stack.settle()
    await stack.pool.execute("UPDATE shard SET state = 'stopped'")
    await stack.pool.execute("UPDATE journal SET chain = repeat('a', 40) WHERE seq = 5")

    assert (await look(stack)).exit_code == 1


async def test_a_journal_whose_first_months_were_detached_is_compared_from_there_on(
    stack: Stack,
) -> None:
    await live(stack, "acme")
    await stack.settle()
    await more(stack, "acme")
    await stack.settle()
    await stack.pool.execute("DELETE FROM journal WHERE seq < 10")
    number = stack.shards.number_of("acme")

    report = await look(stack)

    assert told(report) == []
    assert report.uncompared == [
        f"shard {number}: its journal begins behind entry 9",
        "account acme: its first entry in the journal has version 10",
    ]
    await stack.pool.execute(
        "UPDATE account SET available = available + 1, base = base + 1, granted = granted + 1"
    )
    assert (await look(stack)).exit_code == 1


async def test_an_account_in_quarantine_is_not_compared_until_it_is_out(stack: Stack) -> None:
    await live(stack, "acme")
    await live(stack, "other")
    await stack.settle()
    number = stack.shards.number_of("acme")
    await stack.pool.execute("ALTER TABLE record ADD CONSTRAINT wrong CHECK (amount <> 666)")
    await stack.reserve("acme", "bad", 666)
    await stack.commit("acme", "bad", 5)
    await stack.settle()

    report = await look(stack)
    assert told(report) == []
    assert report.exit_code == 2
    assert set(report.uncompared) == {
        "account acme: 2 entries in quarantine",
        "account acme is in quarantine",
    }

    await stack.pool.execute("ALTER TABLE record DROP CONSTRAINT wrong")
    first = (await stack.rows("quarantine"))[0]
    await quarantine.apply(stack.pool, first["id"], "op")
    assert told(await look(stack)) == []
    assert (await look(stack)).exit_code == 0
    assert number in (await look(stack)).marks


async def test_what_was_voided_or_mended_adds_up(stack: Stack) -> None:
    """Given books that a void corrected and an entry that was mended, I expect the journal with the
    corrections to lead to the tables."""
    await stack.open("acme", grant=100)
    number = stack.shards.number_of("acme")
    acct = stack.shards.keys[number].acct("acme")
    # Money that no entry tells of: the next entry does not follow from the books.
    for field in ("available", "base", "granted"):
        await stack.command("HINCRBY", acct, field, 11)
    await stack.settle()
    await stack.reserve("acme", "h1", 40)
    await stack.commit("acme", "h1", 13)
    await stack.settle()
    assert (await look(stack)).exit_code == 2
    first = (await stack.rows("quarantine"))[0]

    await quarantine.void(stack.pool, [first["id"]], "the books were wrong", "op")

    report = await look(stack)
    assert told(report) == []
    assert report.exit_code == 0
