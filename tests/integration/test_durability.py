"""Durability `settled` on real stores: who is told, when, and who must never be."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import pytest

from holdfast.durability import CHANNEL, SettledWaits
from holdfast.embedded import Postgres, Valkey
from holdfast.errors import Unavailable
from holdfast.ledger import Ledger, open_ledger
from holdfast.model import Context, Hold
from tests.faults.proxy import HOST, FaultProxy, Rule
from tests.stack import Stack
from tests.vetted import PATIENCE_S, claim, keep_leases, running, settle_all, until, vet, vet_anew

T = TypeVar("T")
CONTEXT = Context("durability", "test")
LONG_MS = 30_000
SHORT_MS = 200


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each question to Postgres, for how many waits it was asked."""
    found: list[int] = []
    ask = SettledWaits._ask

    async def counted(waits: SettledWaits, some: list[Any]) -> None:
        await ask(waits, some)
        found.append(len(some))

    monkeypatch.setattr(SettledWaits, "_ask", counted)
    return found


async def ledger_of(stack: Stack, **changes: int) -> Ledger:
    ledger = await open_ledger(stack.config.model_copy(update=changes))
    await until(lambda: listens(stack))
    return ledger


async def listens(stack: Stack) -> bool:
    """Whether a connection waits for word of what has settled."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND query LIKE 'LISTEN%'"
    return bool(await stack.pool.fetchval(query, stack.database))


@pytest.fixture
async def stack(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    async with Stack(valkey_server.url, postgres_server.url, shards=1) as stack:
        await stack.open("acme", grant=100)
        await stack.settle()
        yield stack


@pytest.fixture
async def ledger(stack: Stack, asked: list[int]) -> AsyncIterator[Ledger]:
    ledger = await ledger_of(stack, settled_wait_ms=LONG_MS)
    yield ledger
    await ledger.close()


def reserve(ledger: Ledger, key: str, level: Any = "settled") -> Awaitable[Hold]:
    return ledger.reserve("acme", key, amount=10, context=CONTEXT, durability=level)


async def answered(call: Callable[[], Awaitable[T]]) -> T:
    """The answer, as soon as the shard serves."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await call()
            except Unavailable:
                await asyncio.sleep(0.02)


async def ends_at(stack: Stack, seq: int) -> bool:
    return (await stack.meta(0)).get("seq") == str(seq)


async def test_settled_is_told_when_the_journal_has_the_entry(
    stack: Stack, ledger: Ledger, asked: list[int]
) -> None:
    """Given callers that wait, I expect one question for all when they begin, no other until
    something settles, and then their answer."""
    waiting = [asyncio.ensure_future(reserve(ledger, f"h{n}")) for n in range(5)]
    await until(lambda: ends_at(stack, 7))
    await until(lambda: 5 in asked)
    assert not any(task.done() for task in waiting)

    await stack.settle()

    assert [(await task).durability for task in waiting] == ["settled"] * 5
    before = len(asked)
    await stack.reserve("acme", "other", 1)
    await stack.settle()  # nobody waits: nobody asks
    assert (await reserve(ledger, "h0")).replayed
    assert len(asked) == before + 1


async def test_wait_that_runs_out_is_accepted_and_says_unknown(
    stack: Stack, asked: list[int]
) -> None:
    ledger = await ledger_of(stack, settled_wait_ms=SHORT_MS)
    try:
        hold = await reserve(ledger, "h1")
        assert (hold.state, hold.durability, hold.replayed) == ("held", "unknown", False)
        assert len(asked) <= 2  # when it began, and where the listener came later: no polling
        await stack.settle()
        again = await reserve(ledger, "h1")
        assert (again.durability, again.replayed, again.receipt.version) == (
            *("settled", True),
            hold.receipt.version,
        )
    finally:
        await ledger.close()


async def test_word_that_was_missed_is_made_up_for(stack: Stack, ledger: Ledger) -> None:
    """Given a caller that waits, If the connection that listens is cut and something settles before
    there is another, I expect its answer all the same."""
    waiting = asyncio.ensure_future(reserve(ledger, "h1"))
    await until(lambda: ends_at(stack, 3))
    cut = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = $1 AND query LIKE 'LISTEN%'"
    )
    assert await stack.pool.fetchval(cut, stack.database) == 1
    await stack.settle()
    assert (await waiting).durability == "settled"
    assert CHANNEL == "holdfast_settled"


async def test_connection_that_hears_nothing_is_given_up(
    stack: Stack, postgres_server: Postgres, asked: list[int]
) -> None:
    """Given a network that swallows what Postgres says to the connection that listens, and leaves
    it open, I expect another one, and a caller that waits to be told."""
    async with FaultProxy((HOST, postgres_server.port)) as proxy:
        url = urlsplit(stack.config.database_url or "")
        user = url.netloc.rpartition("@")[0]
        through = urlunsplit(url._replace(netloc=f"{user}@{HOST}:{proxy.port}"))
        config = {"settled_wait_ms": LONG_MS, "database_url": through}
        ledger = await open_ledger(stack.config.model_copy(update=config))
        try:
            await until(lambda: listens(stack))
            proxy.rule = rule = Rule("drop-reply", at_most=1)
            await stack.reserve("acme", "other", 1)
            await stack.settle()  # of which the listener is not told
            async with asyncio.timeout(PATIENCE_S):
                await rule.struck.wait()
            waiting = asyncio.ensure_future(reserve(ledger, "h1"))
            await until(lambda: 1 in asked)
            await stack.settle()
            assert (await waiting).durability == "settled"
        finally:
            await ledger.close()


async def test_without_postgres_a_commit_is_accepted_and_says_unknown(
    valkey_server: Valkey, server_dir: Path
) -> None:
    with Postgres.start(server_dir / "postgres", fsync=False) as postgres:
        async with Stack(valkey_server.url, postgres.url, shards=1) as stack:
            await stack.open("acme", grant=100)
            ledger = await ledger_of(stack, settled_wait_ms=SHORT_MS)
            try:
                await reserve(ledger, "h1", "local")
                commit = partial(ledger.commit, "acme", "h1", amount=3, context=CONTEXT)
                await asyncio.to_thread(postgres.kill)
                hold = await commit(durability="settled")
                assert (hold.state, hold.durability) == ("committed", "unknown")
                await asyncio.to_thread(postgres.restart)
                await until(lambda: settled(stack))
                assert (await answered(partial(commit, durability="settled"))).replayed
                hold = await commit(durability="settled")
                assert (hold.committed, hold.durability) == (3, "settled")
            finally:
                await ledger.close()


async def settled(stack: Stack) -> bool:
    await stack.settle()
    return True


@pytest.mark.parametrize("replayed", [False, True], ids=["first answer", "replay"])
async def test_caller_whose_entry_was_lost_is_never_told_that_it_settled(
    server_dir: Path, postgres_server: Postgres, replayed: bool
) -> None:
    """Given a caller that waits, If Redis loses its entry and another one of the same account takes
    the number and the version, and settles, I expect the other caller alone to be told."""
    with Valkey.start(server_dir / "valkey") as valkey:
        async with Stack(valkey.url, postgres_server.url, shards=1, vet=False) as stack:
            await claim(stack)
            vetting = await vet(stack)
            await stack.renew_leases()
            await stack.open("acme", grant=100)
            await settle_all(stack)
            ledger = await ledger_of(stack, settled_wait_ms=LONG_MS)
            try:
                async with running(keep_leases(stack)):
                    if replayed:
                        await answered(lambda: reserve(ledger, "h1", "local"))
                    lost = asyncio.ensure_future(answered(lambda: reserve(ledger, "h1")))
                    await until(lambda: ends_at(stack, 3))
                    await until(lambda: bool(ledger._decisions._waits._waits))
                    await stack.command("FLUSHALL")
                    stack.state.doubt(0, "FENCED")
                    await vet_anew(stack, vetting)
                    other = asyncio.ensure_future(answered(lambda: reserve(ledger, "h2")))
                    await until(lambda: ends_at(stack, 3))
                    assert not lost.done()
                    await settle_all(stack)
                    told, not_told = await other, await lost
                assert told.durability == "settled"
                assert not_told.durability == "unknown"
                assert (told.receipt.seq, told.receipt.version) == (3, 3)
                assert (not_told.receipt.seq, not_told.receipt.version) == (3, 3)
                assert not_told.replayed is replayed
            finally:
                await ledger.close()
