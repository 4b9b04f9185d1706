"""The outbox: what Postgres owes to accounts reaches them once, whatever becomes of its workers."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio

from holdfast.codes import Code
from holdfast.embedded import Postgres, Valkey
from holdfast.errors import OverloadedError, Unavailable
from holdfast.keys import fingerprint
from holdfast.ledger import Ledger, open_ledger
from holdfast.model import Context
from holdfast.outbox import Owed, apply
from settlement import failpoints
from settlement.outbox import Outbox, enqueue, listing, retry
from tests.commands import assert_reconciled, command
from tests.stack import WINDOW_MS, Stack
from tests.vetted import PATIENCE_S, settle_all, until

CONTEXT = Context("test", "test")
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    async with Stack(valkey_server.url, postgres_server.url, shards=2) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ledger(stack: Stack) -> AsyncIterator[Ledger]:
    made = await open_ledger(stack.config)
    yield made
    await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def outbox(stack: Stack, ledger: Ledger) -> Outbox:
    await stack.pool.execute("TRUNCATE outbox")
    await stack.renew_leases()
    return Outbox(stack.pool, ledger)


async def owe(stack: Stack, account: str, key: str = "k", amount: int = 100, **more: Any) -> bool:
    async with stack.pool.acquire() as conn, conn.transaction():
        fields = {"source": "allowance", "origin": "a test"} | more
        return await enqueue(conn, account=account, key=key, amount=amount, **fields)


async def due_now(stack: Stack) -> None:
    await stack.pool.execute(
        "UPDATE outbox SET next_try_at = now() - interval '1 h' WHERE state = 'pending'"
    )


async def row(stack: Stack, account: str) -> dict[str, Any]:
    found = await stack.row("outbox", account=account)
    assert found is not None
    return found


async def available(stack: Stack, account: str) -> int:
    return int((await stack.acct(account)).get("available", 0))


async def test_it_is_applied_once_and_then_the_journal_has_it(stack: Stack, outbox: Outbox) -> None:
    await stack.open("once")
    expires_at = datetime(2030, 1, 1, tzinfo=UTC)
    assert await owe(stack, "once", expires_at=expires_at, priority=3, metadata={"of": "may"})
    assert not await owe(stack, "once", amount=7), "its key was enqueued before"

    assert await outbox.turn() == 1
    assert ((await row(stack, "once"))["state"], await available(stack, "once")) == ("pending", 100)
    await due_now(stack)
    await outbox.turn()  # Redis has it, the journal does not: it is applied again, as a replay
    await settle_all(stack)
    await due_now(stack)
    await outbox.turn()

    done = await row(stack, "once")
    assert (done["state"], done["error"], done["amount"]) == ("applied", None, 100)
    assert done["applied_at"] is not None
    assert await available(stack, "once") == 100
    (entry,) = await stack.rows("journal", account="once", type="grant")
    assert entry["key"] == "k"
    (granted,) = await stack.rows("account_grant", account="once")
    assert (granted["expires_at"], granted["priority"]) == (expires_at, 3)
    assert await outbox.turn() == 0


async def test_what_redis_lost_is_applied_again(stack: Stack, outbox: Outbox) -> None:
    """Given a row that Redis has applied, If Redis loses the entry before it is settled, I expect
    the outbox to apply it again."""
    await stack.open("lost")
    await settle_all(stack)
    number = stack.shards.number_of("lost")
    shard = stack.shards.keys[number]
    kept = (shard.meta, shard.acct("lost"), shard.stream)
    before = {key: await stack.command("DUMP", key) for key in kept}
    await owe(stack, "lost")
    await outbox.turn()
    assert await available(stack, "lost") == 100

    for key, content in before.items():
        await stack.command("RESTORE", key, 0, content, "REPLACE")
    await stack.command("DEL", shard.record("lost", "k"))
    assert await available(stack, "lost") == 0

    await due_now(stack)
    await outbox.turn()
    await settle_all(stack)
    await due_now(stack)
    await outbox.turn()
    assert (await row(stack, "lost"))["state"] == "applied"
    assert await available(stack, "lost") == 100
    assert len(await stack.rows("journal", account="lost", type="grant")) == 1


async def test_workers_share_the_rows(stack: Stack, ledger: Ledger, outbox: Outbox) -> None:
    names = [f"shared-{n}" for n in range(30)]
    for name in names:
        await stack.open(name)
        await owe(stack, name)
    workers = [Outbox(stack.pool, ledger) for _ in range(3)]
    taken = await asyncio.gather(*(worker.turn() for worker in (outbox, *workers)))
    assert sum(taken) == 30
    await settle_all(stack)
    await due_now(stack)
    assert sum(await asyncio.gather(*(worker.turn() for worker in (outbox, *workers)))) == 30
    assert {each["state"] for each in await stack.rows("outbox")} == {"applied"}
    assert [await available(stack, name) for name in names] == [100] * 30


async def test_a_late_runner_is_refused_when_the_record_has_expired(
    stack: Stack, ledger: Ledger, outbox: Outbox
) -> None:
    """Given two runners that found the journal without a key, If one of them applies it, and the
    other wakes up after the record of that has expired, I expect nothing of the second one."""
    await stack.open("late")
    await settle_all(stack)
    number = stack.shards.number_of("late")
    seen_at = int((await stack.meta(number))["settled"])
    await owe(stack, "late")
    await outbox.turn()
    await settle_all(stack)
    await stack.command("DEL", stack.shards.keys[number].record("late", "k"))  # its 24 h are over

    print_ = fingerprint("grant", {"amount": 100, "source": "allowance", "priority": 0})
    args = (100, 0, "", "allowance", print_, WINDOW_MS, seen_at, "", "k", 1)
    code, _ = await stack.call("grant", "late", '{"actor":"late"}', *args, records=["k"])
    assert code is Code.MISS_KEY
    # Who asks the journal again is told what the first one did.
    owed = Owed("grant", "late", "k", "a test", 100, "allowance")
    assert (await apply(ledger, owed, CONTEXT)).replayed
    assert await available(stack, "late") == 100


async def test_a_grant_waits_for_the_journal_to_know_the_one_before(
    stack: Stack, ledger: Ledger, outbox: Outbox
) -> None:
    """Given a grant that is not settled, If another one is owed, I expect it to be applied only
    when the journal can tell whether it has it."""
    await stack.open("next")
    await stack.grant("next", "g1", 5)
    owed = Owed("grant", "next", "k", "a test", 100, "allowance")
    with pytest.raises(OverloadedError):
        await apply(ledger, owed, CONTEXT)
    assert await available(stack, "next") == 5
    await settle_all(stack)
    assert not (await apply(ledger, owed, CONTEXT)).replayed
    assert await available(stack, "next") == 105


async def closed(stack: Stack, ledger: Ledger) -> str:
    await stack.open("closed")
    await ledger.put_account("closed", {"status": "closed"}, context=CONTEXT)
    return "closed"


async def full(stack: Stack, ledger: Ledger) -> str:
    await stack.open("full", grant=9 * 10**15)
    await settle_all(stack)
    return "full"


async def unknown(stack: Stack, ledger: Ledger) -> str:
    return "nobody"


@pytest.mark.parametrize(
    ("refusing", "code"),
    [(closed, "account_closed"), (full, "amount_limit"), (unknown, "account_not_found")],
)
async def test_what_is_refused_waits_for_an_operator(
    stack: Stack, ledger: Ledger, outbox: Outbox, refusing: Any, code: str
) -> None:
    account = await refusing(stack, ledger)
    await owe(stack, account)
    await outbox.turn()
    failed = await row(stack, account)
    assert (failed["state"], failed["error"].split(":")[0]) == ("failed", code)
    assert await outbox.turn() == 0
    async with stack.pool.acquire() as conn:
        (listed,) = await listing(conn, state="failed")
        assert listed["account"] == account
        assert await retry(conn, failed["id"]) == account
        assert await retry(conn, failed["id"]) is None
    if refusing is unknown:
        await stack.open(account)
    await outbox.turn()
    again = await row(stack, account)
    assert again["state"] == ("pending" if refusing is unknown else "failed")
    assert (await available(stack, account) == 100) == (refusing is unknown)


async def test_an_account_under_review_is_put_off(stack: Stack, outbox: Outbox) -> None:
    await stack.open("review")
    await settle_all(stack)
    await stack.pool.execute("UPDATE account SET quarantined = true WHERE account = 'review'")
    await owe(stack, "review")
    await outbox.turn()
    waiting = await row(stack, "review")
    assert (waiting["state"], await available(stack, "review")) == ("pending", 0)
    assert "under review" in waiting["error"]


async def test_an_adjustment_takes_what_was_spent_as_debt(
    stack: Stack, ledger: Ledger, outbox: Outbox
) -> None:
    await stack.open("owing", grant=100)
    await stack.charge("owing", "c1", 70)
    await settle_all(stack)
    await owe(stack, "owing", amount=-50, kind="adjust", source="adjustment")
    await outbox.turn()
    await settle_all(stack)
    await due_now(stack)
    await outbox.turn()
    assert (await row(stack, "owing"))["state"] == "applied"
    account = await ledger.get_account("owing")
    assert (account.available, account.debt, account.granted) == (-20, 20, 50)


async def test_a_key_that_a_caller_took_is_refused(
    stack: Stack, ledger: Ledger, outbox: Outbox
) -> None:
    await stack.open("taken", grant=10)
    await stack.reserve("taken", "k", 5)
    await settle_all(stack)
    await owe(stack, "taken")
    await outbox.turn()
    assert (await row(stack, "taken"))["error"].startswith("idempotency_key_reused")


async def test_without_redis_it_is_put_off(stack: Stack, outbox: Outbox) -> None:
    await stack.open("away")
    await owe(stack, "away")
    await stack.stop_leases()
    number = stack.shards.number_of("away")
    await stack.command("DEL", stack.shards.keys[number].lease_new)
    await outbox.turn()
    put_off = await row(stack, "away")
    assert (put_off["state"], put_off["attempts"]) == ("pending", 1)
    assert put_off["error"].startswith("store_unavailable")
    await stack.renew_leases()
    await due_now(stack)
    await outbox.turn()
    assert await available(stack, "away") == 100


async def test_a_worker_that_dies_leaves_it_to_the_next(
    valkey_server: Valkey, postgres_server: Postgres
) -> None:
    """Given rows that are owed, If one worker after the other is killed, each at another step of
    the outbox, and a last one takes over, I expect every row in the journal once."""
    urls = valkey_server.url, postgres_server.url
    settle = ("holdfast", "settle")
    async with Stack(*urls, shards=1, vet=False, leases=False) as stack:
        accounts = [f"killed-{point}" for point in failpoints.OUTBOX_POINTS]
        for point, account in zip(failpoints.OUTBOX_POINTS, accounts, strict=True):
            async with command(stack, *settle, test_failpoint=f"{point}:1") as doomed:
                if account == accounts[0]:
                    await _open_all(stack, accounts)
                await owe(stack, account)
                _, said = await asyncio.wait_for(doomed.communicate(), PATIENCE_S)
                assert doomed.returncode == -signal.SIGKILL, said.decode()
            # As if its claims, and what it had put off, had run out.
            await stack.pool.execute("UPDATE shard SET claimed_until = '-infinity'")
            await due_now(stack)
        async with command(stack, *settle):
            await until(lambda: _all_applied(stack))
            await assert_reconciled(stack)
        grants = await stack.rows("journal", type="grant")
        assert sorted(entry["account"] for entry in grants) == sorted(accounts)
        assert [await available(stack, account) for account in accounts] == [100] * len(accounts)


async def _open_all(stack: Stack, accounts: list[str]) -> None:
    """Open accounts as soon as a worker lets it."""
    ledger = await open_ledger(stack.config)
    try:
        for account in accounts:

            async def opened(account: str = account) -> bool:
                with contextlib.suppress(Unavailable):
                    await ledger.put_account(account, {}, context=CONTEXT)
                    return True
                return False

            await until(opened)
    finally:
        await ledger.close()


async def _all_applied(stack: Stack) -> bool:
    return {each["state"] for each in await stack.rows("outbox")} == {"applied"}
