"""A worker that is killed, seen by callers of the ledger: what they were told is in the journal."""

import asyncio
import secrets
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import pytest

from holdfast.embedded import Postgres, Valkey
from holdfast.errors import Unavailable
from holdfast.gate import Gate
from holdfast.ledger import Ledger, open_ledger
from holdfast.model import Context
from settlement import failpoints
from tests.commands import assert_reconciled, command
from tests.stack import Stack
from tests.vetted import PATIENCE_S, until

T = TypeVar("T")
CONTEXT = Context("crash", "test")
SETTINGS = {"stream_retention_s": 0}  # so that there is something to trim at once
GRANT, ESTIMATE, COST = 10_000_000, 10, 7

# When each point is reached for the nth time, calls are under way: rounds of reading and of leases
# go on without any, the others need some.
TURNS = {"read": 25, "lease": 4, "before_trim": 1, "trim": 1}


@dataclass
class Spender:
    """One caller with an account of its own, who repeats each call until it is answered."""

    ledger: Ledger
    account: str
    holds: list[str] = field(default_factory=list)

    async def answered(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:  # the test's own time-out ends it
            try:
                return await call()
            except Unavailable:
                await asyncio.sleep(0.01)

    async def spend(self, enough: asyncio.Event) -> None:
        """Reserve and commit, again and again, until there is enough."""
        ledger, answered, account = self.ledger, self.answered, self.account
        await answered(partial(ledger.put_account, account, {}, context=CONTEXT))
        await answered(partial(ledger.grant, account, "g", amount=GRANT, context=CONTEXT))
        while not enough.is_set():
            key = f"h{len(self.holds)}"
            await answered(partial(ledger.reserve, account, key, amount=ESTIMATE, context=CONTEXT))
            hold = await answered(
                partial(ledger.commit, account, key, amount=COST, context=CONTEXT)
            )
            assert (hold.state, hold.committed) == ("committed", COST)
            self.holds.append(key)

    async def assert_journalled(self, stack: Stack) -> None:
        """Every call that was answered has one entry, and there is no other."""
        entries = await stack.rows("journal", account=self.account)
        found = Counter((entry["type"], entry["hold"], entry["amount"]) for entry in entries)
        reserved = Counter(("reserve", key, ESTIMATE) for key in self.holds)
        committed = Counter(("commit", key, COST) for key in self.holds)
        rest = Counter([("open", None, None), ("grant", None, GRANT)])
        assert found == reserved + committed + rest
        assert sorted(entry["version"] for entry in entries) == list(range(1, len(entries) + 1))
        row = await stack.row("account", account=self.account)
        assert row is not None
        assert (row["spent"], row["held"]) == (COST * len(self.holds), 0)


@asynccontextmanager
async def spending(stack: Stack, enough: asyncio.Event) -> AsyncIterator[list[Spender]]:
    """Four callers of one ledger, at work while the block runs, then until there is enough."""
    ledger = await open_ledger(stack.config)
    spenders = [Spender(ledger, f"account-{number}") for number in range(4)]
    try:
        async with asyncio.timeout(2 * PATIENCE_S), asyncio.TaskGroup() as group:
            for spender in spenders:
                group.create_task(spender.spend(enough))
            yield spenders
    finally:
        await ledger.close()


async def everything_settled(stack: Stack) -> bool:
    metas = [await stack.meta(number) for number in range(stack.config.shards)]
    marks = [row["mark"] for row in await stack.rows("shard")]
    return marks == [int(meta.get("seq", 0)) for meta in metas]


async def test_a_generation_may_be_known_before_its_scripts(
    valkey_server: Valkey, postgres_server: Postgres
) -> None:
    """Given a caller that read `meta` between a worker's raising of it and its loading of the
    scripts, and met NOSCRIPT, If the scripts are loaded then, I expect it to call again."""
    urls = valkey_server.url, postgres_server.url
    async with Stack(*urls, shards=1, vet=False, leases=False) as stack:
        nonce = secrets.token_hex(16)
        await stack.shards.raise_generation(0, 1, nonce, "local")
        gate = Gate(stack.shards, 0)
        try:
            assert await gate.read()
            gate.refuse(gate.nonce)
            await stack.load_scripts(nonce)
            await until(lambda: not gate.fenced)
        finally:
            gate.close()


@pytest.mark.parametrize("point", failpoints.POINTS)
async def test_what_was_answered_is_settled_once(
    valkey_server: Valkey, postgres_server: Postgres, point: str
) -> None:
    """Given callers at work, If the worker is killed there and another one takes over, I expect
    one entry for each of their calls, in both stores alike."""
    urls = valkey_server.url, postgres_server.url
    settle, enough = ("holdfast", "settle"), asyncio.Event()
    armed = f"{point}:{TURNS.get(point, 5)}"
    async with Stack(*urls, shards=2, vet=False, leases=False) as stack, AsyncExitStack() as heirs:
        async with spending(stack, enough) as spenders:
            async with command(stack, *settle, **SETTINGS, test_failpoint=armed) as doomed:
                _, said = await asyncio.wait_for(doomed.communicate(), PATIENCE_S)
                assert doomed.returncode == -signal.SIGKILL, said.decode()
            before = [len(spender.holds) for spender in spenders]
            # As if the claims of the dead had run out: they fence nothing.
            await stack.pool.execute("UPDATE shard SET claimed_until = '-infinity'")
            await heirs.enter_async_context(command(stack, *settle, **SETTINGS))
            await until(lambda: has_gone_on(spenders, before))
            enough.set()
        await until(lambda: everything_settled(stack))
        for spender in spenders:
            await spender.assert_journalled(stack)
        await assert_reconciled(stack)


def has_gone_on(spenders: list[Spender], before: list[int]) -> bool:
    return all(len(one.holds) > count for one, count in zip(spenders, before, strict=True))
