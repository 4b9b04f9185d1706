"""What is owed for failed work, over real stores: given once, tried again, given up visibly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any
from unittest import mock

import pytest
import pytest_asyncio

from holdfast import compensations
from holdfast.children import free_port
from holdfast.compensations import Compensation
from holdfast.compensator import MAX_ATTEMPTS, Compensator, pause_s
from holdfast.embedded import Postgres, Valkey
from holdfast.errors import InvalidRequest, KeyReused
from holdfast.ledger import Ledger, open_ledger
from holdfast.model import Context
from holdfast.postgres import Pool
from settlement.outbox import Outbox
from settlement.worker import SettleLoop
from tests.owed import BY, finish, given, owe, row_of
from tests.stack import Stack
from tests.vetted import running

pytestmark = pytest.mark.asyncio(loop_scope="module")
module_fixture: Callable[..., Any] = pytest_asyncio.fixture(scope="module", loop_scope="module")

CONTEXT = Context("r-1", "test")
_accounts = count(1)


@module_fixture
async def stack(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    async with Stack(valkey_server.url, postgres_server.url) as stack:
        yield stack


@module_fixture
async def ledger(stack: Stack) -> AsyncIterator[Ledger]:
    ledger = await open_ledger(stack.config)
    yield ledger
    await ledger.close()


@module_fixture
async def settling(stack: Stack, ledger: Ledger) -> AsyncIterator[None]:
    """A worker's settlement and outbox."""
    async with running(SettleLoop(stack.state).run(), Outbox(stack.pool, ledger).run()):
        yield


@pytest_asyncio.fixture(loop_scope="module")
async def pool(stack: Stack) -> AsyncIterator[Pool]:
    yield Pool(stack.pool)
    await stack.pool.execute("TRUNCATE compensation")


@pytest.fixture
def compensator(pool: Pool, ledger: Ledger, settling: None) -> Compensator:
    return Compensator(pool, ledger)


@pytest_asyncio.fixture(loop_scope="module")
async def account(stack: Stack, ledger: Ledger) -> str:
    """An account that had 100, of which a charge `c` took 40."""
    account = f"acme:{next(_accounts)}"
    await stack.open(account, grant=100)
    await stack.charge(account, "c", 40)
    return account


# ── what is owed ─────────────────────────────────────────────────────────────────────────────────


async def test_an_origin_is_one_row_also_for_many_at_once(
    pool: Pool, stack: Stack, account: str
) -> None:
    results = await asyncio.gather(
        *(
            compensations.add(pool, account=account, origin="o", amount=5, reason="why", by=BY)
            for _ in range(12)
        )
    )
    assert sorted(new for _owed, new in results) == [False] * 11 + [True]
    assert len({owed.id for owed, _new in results}) == 1
    subject = f"compensation:{results[0][0].id}"
    [audited] = await stack.rows("audit", subject=subject)
    assert (audited["actor"], audited["action"]) == (BY.actor, "compensation.add")
    assert audited["account"] == account


@pytest.mark.parametrize("field", ["of", "amount", "reason"])
async def test_an_origin_with_another_content_is_refused_by_its_field(
    pool: Pool, account: str, field: str
) -> None:
    first = {"of": "c", "amount": 5, "reason": "why"}
    await compensations.add(pool, account=account, origin="o", by=BY, **first)  # type: ignore[arg-type]
    other = first | {field: {"of": None, "amount": 6, "reason": "because"}[field]}
    with pytest.raises(KeyReused, match=f"another {field};") as refused:
        await compensations.add(pool, account=account, origin="o", by=BY, **other)  # type: ignore[arg-type]
    assert refused.value.members["field"] == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("amount", 0),
        ("amount", 9 * 10**15 + 1),
        ("origin", "o" * 116),
        ("origin", "a/b"),
        ("of", "a b"),
        ("reason", " "),
        ("reason", "nul \0"),
    ],
)
async def test_what_cannot_be_owed_is_refused(
    pool: Pool, account: str, field: str, value: Any
) -> None:
    sent = {"account": account, "origin": "o", "of": "c", "amount": 1, "reason": "why"}
    with pytest.raises(InvalidRequest) as refused:
        await compensations.add(pool, by=BY, **(sent | {field: value}))
    assert refused.value.members["errors"][0]["field"] == field


# ── what is given ────────────────────────────────────────────────────────────────────────────────


async def test_a_refund_and_a_grant_are_given_once_however_often_it_runs(
    pool: Pool, stack: Stack, compensator: Compensator, account: str
) -> None:
    refund = await owe(pool, account, "job-1")
    grant = await owe(pool, account, "job-2", of=None, amount=7)
    assert (await finish(compensator)).applied == 2
    for owed in (refund, grant):
        row = await row_of(stack, owed)
        assert (row["state"], row["error"], row["claimed_until"]) == ("applied", None, None)
    assert await given(stack, account) == (10, 7)
    assert (await compensator.run()).tried == 0

    # As if nobody had noted it: the journal is asked.
    await stack.pool.execute("UPDATE compensation SET state = 'pending', applied_at = NULL")
    assert (await compensator.round()).applied == 2
    assert await given(stack, account) == (10, 7)
    entries = await stack.rows("journal", account=account)
    assert [e["type"] for e in entries if e["key"] == refund.key] == ["refund"]
    assert [e["type"] for e in entries if e["key"] == grant.key] == ["grant"]
    [entry] = [e["entry"] for e in entries if e["key"] == refund.key]
    assert '"reason":"it failed"' in entry
    assert '"actor":"cli:test"' in entry


async def test_no_more_is_refunded_than_was_taken(
    pool: Pool, stack: Stack, compensator: Compensator, account: str
) -> None:
    owed = [await owe(pool, account, f"job-{number}", amount=30) for number in range(3)]
    tally = await finish(compensator)
    assert (tally.applied, tally.failed) == (1, 2)
    assert await given(stack, account) == (30, 0)
    rows = [await row_of(stack, each) for each in owed]
    failed = [row for row in rows if row["state"] == "failed"]
    assert [row["error"].split(":")[0] for row in failed] == ["refund_exceeds"] * 2


@pytest.mark.parametrize(
    ("of", "code"), [("nothing", "hold_not_found"), ("compensation:job-0", "hold_not_found")]
)
async def test_what_can_never_be_refunded_fails_at_once(
    pool: Pool, stack: Stack, compensator: Compensator, account: str, of: str, code: str
) -> None:
    await owe(pool, account, "job-0")
    owed = await owe(pool, account, "job-1", of=of)
    assert (await finish(compensator)).failed == 1
    assert (await row_of(stack, owed))["error"].startswith(f"{code}: ")


@pytest.mark.parametrize("of", ["c", None])
async def test_what_failed_is_tried_anew(
    pool: Pool, stack: Stack, compensator: Compensator, of: str | None
) -> None:
    """Given an account that nobody has opened, If it is opened and the compensation is retried, I
    expect it to be given."""
    account = f"late:{next(_accounts)}"
    owed = await owe(pool, account, of=of)
    await finish(compensator)
    row = await row_of(stack, owed)
    assert (row["state"], row["error"].split(":")[0]) == ("failed", "account_not_found")
    assert (await compensator.run()).tried == 0

    await stack.open(account, grant=100)
    await stack.charge(account, "c", 40)
    again = await compensations.retry(pool, str(owed.id), by=BY)
    assert (again.state, again.attempts) == ("pending", 1)
    assert (await finish(compensator)).applied == 1
    assert sum(await given(stack, account)) == 10
    actions = [row["action"] for row in await stack.rows("audit", account=account)]
    assert actions.count("compensation.retry") == 1
    assert (await compensations.retry(pool, str(owed.id), by=BY)).state == "applied"


async def test_a_key_that_somebody_used_is_told(
    pool: Pool, stack: Stack, compensator: Compensator, account: str
) -> None:
    await stack.charge(account, "compensation:job-1", 1)
    owed = await owe(pool, account, "job-1")
    assert (await compensator.run()).failed == 1
    assert (await row_of(stack, owed))["error"].startswith("idempotency_key_reused: ")


# ── again, later ─────────────────────────────────────────────────────────────────────────────────


async def test_an_open_hold_is_waited_for_longer_each_time(
    pool: Pool, stack: Stack, compensator: Compensator, account: str
) -> None:
    await stack.reserve(account, "h", 20)
    owed = await owe(pool, account, of="h")
    for attempt in range(1, 4):
        tally = await compensator.round()
        assert (tally.waiting, tally.retries) == (1, int(attempt > 1))
        assert (await compensator.round()).tried == 0  # it is not due
        row = await row_of(stack, owed)
        assert (row["state"], row["attempts"]) == ("pending", attempt)
        assert row["error"].startswith("hold_open: ")
        # It was noted after it was claimed, so its next try is at least that far off.
        assert (row["next_try_at"] - row["created_at"]).total_seconds() >= pause_s(attempt)
        await stack.pool.execute("UPDATE compensation SET next_try_at = created_at")
    await stack.commit(account, "h")
    assert (await finish(compensator)).applied == 1
    assert await given(stack, account) == (10, 0)


async def test_a_store_that_is_away_costs_tries_and_in_the_end_it_is_given_up(
    pool: Pool, stack: Stack, compensator: Compensator, account: str
) -> None:
    owed = await owe(pool, account)
    nowhere = stack.config.model_copy(update={"redis_url": f"redis://127.0.0.1:{free_port()}"})
    away = await open_ledger(nowhere)
    try:
        assert (await Compensator(pool, away).round()).waiting == 1
        row = await row_of(stack, owed)
        assert row["error"].startswith("store_unavailable: ")
        await stack.pool.execute("UPDATE compensation SET attempts = $1", MAX_ATTEMPTS - 1)
        assert (await Compensator(pool, away).run()).failed == 1
    finally:
        await away.close()
    assert (await row_of(stack, owed))["state"] == "failed"
    await compensations.retry(pool, str(owed.id), by=BY)
    assert (await finish(compensator)).applied == 1
    assert await given(stack, account) == (10, 0)


async def test_a_bug_that_one_row_meets_holds_up_no_other(
    pool: Pool, stack: Stack, compensator: Compensator, ledger: Ledger, account: str
) -> None:
    broken, sound = await owe(pool, account, "job-1"), await owe(pool, account, "job-2")
    refund = ledger.refund

    async def meets_a_bug(account: str, key: str, **request: Any) -> Any:
        if key == broken.key:
            raise ZeroDivisionError("by test")
        return await refund(account, key, **request)

    with mock.patch.object(ledger, "refund", meets_a_bug):
        await compensator.run()
    assert (await row_of(stack, broken))["error"] == "a bug: ZeroDivisionError: by test"
    await finish(compensator)
    assert {(await row_of(stack, each))["state"] for each in (sound, broken)} == {"applied"}
    assert await given(stack, account) == (20, 0)


async def test_an_account_under_review_is_waited_for(
    pool: Pool, stack: Stack, compensator: Compensator, account: str
) -> None:
    await owe(pool, account)
    assert (await finish(compensator)).applied == 1  # so the journal knows the account
    await owe(pool, account, "job-2")
    await stack.pool.execute("UPDATE account SET quarantined = true WHERE account = $1", account)
    assert (await compensator.run()).waiting == 1
    await stack.pool.execute("UPDATE account SET quarantined = false WHERE account = $1", account)
    assert (await finish(compensator)).applied == 1


# ── once, whatever happens in between ────────────────────────────────────────────────────────────


async def forget(stack: Stack, account: str, key: str) -> None:
    """The record's window has passed: Redis has it no more."""
    shard = stack.shards.keys[stack.shards.number_of(account)]
    assert await stack.command("DEL", shard.record(account, key)) == 1


async def refund(ledger: Ledger, owed: Compensation) -> None:
    """What an attempt does that dies before it has noted it."""
    account, key, amount = owed.account, owed.key, owed.amount
    await ledger.refund(account, key, of="c", amount=amount, context=CONTEXT, owed=True)


async def test_a_try_after_the_window_asks_the_journal(
    valkey_server: Valkey, postgres_server: Postgres
) -> None:
    """Given a refund whose record has expired, while the journal is behind, If it is tried again,
    I expect nothing to happen before the journal has it, and then nothing either."""
    async with Stack(valkey_server.url, postgres_server.url, shards=1) as behind:
        await behind.open("acme", grant=100)
        await behind.charge("acme", "c", 40)
        await behind.settle()
        ledger = await open_ledger(behind.config)
        pool = Pool(behind.pool)
        try:
            owed = await owe(pool, "acme")
            await refund(ledger, owed)
            await behind.pool.execute("UPDATE compensation SET attempts = 1")
            await forget(behind, "acme", owed.key)

            assert (await Compensator(pool, ledger).run()).waiting == 1
            assert (await row_of(behind, owed))["error"].startswith("overloaded: ")
            assert await given(behind, "acme") == (10, 0)

            await behind.settle()
            await refund(ledger, owed)  # a replay, though Redis had forgotten it
            assert await given(behind, "acme") == (10, 0)
            assert (await Compensator(pool, ledger).run()).applied == 1
            assert await given(behind, "acme") == (10, 0)
        finally:
            await ledger.close()


async def test_two_at_once_share_the_rows(
    pool: Pool, stack: Stack, compensator: Compensator, ledger: Ledger, account: str
) -> None:
    for number in range(4):
        await owe(pool, account, f"r-{number}", amount=1)
        await owe(pool, account, f"g-{number}", of=None, amount=1)
    tallies = await asyncio.gather(compensator.round(), Compensator(pool, ledger).round())
    assert [tally.tried for tally in tallies] == [4, 4]
    assert {row["attempts"] for row in await stack.rows("compensation")} == {1}
    await finish(compensator)
    assert await given(stack, account) == (4, 4)


async def test_two_that_both_think_a_row_theirs_give_it_once(
    pool: Pool, stack: Stack, compensator: Compensator, ledger: Ledger, account: str
) -> None:
    """Given a claim that ran out while its owner was at work, I expect one effect."""
    rows = [await owe(pool, account), await owe(pool, account, "job-2", of=None)]

    async def unclaim() -> None:
        for _ in range(100):
            await stack.pool.execute("UPDATE compensation SET claimed_until = NULL")

    await asyncio.gather(compensator.run(), Compensator(pool, ledger).run(), unclaim())
    await finish(compensator)
    assert await given(stack, account) == (10, 10)
    assert {(await row_of(stack, each))["state"] for each in rows} == {"applied"}
