"""What tests of trials share: a stack that settles and grants, two workers, and the signs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import asyncpg

from holdfast import plans, purchases, trials
from holdfast.audit import SYSTEM, Caller
from holdfast.ledger import Ledger, open_ledger
from holdfast.model import Context
from holdfast.plans import Definition
from holdfast.purchases import Purchase
from settlement.outbox import Outbox
from settlement.trials import Trials
from settlement.worker import SettleLoop
from tests.stack import Stack
from tests.vetted import running, until

CONTEXT = Context("test", "test")
BY = Caller("key:test", "test", "192.0.2.1", "r-1")
_numbers = count(1)


@dataclass
class World:
    """A stack whose entries settle and whose outbox is applied, and two workers that look."""

    stack: Stack
    ledger: Ledger
    workers: tuple[Trials, Trials]

    async def open(self) -> str:
        account = f"trial:{next(_numbers):03d}"
        await self.ledger.put_account(account, {}, context=CONTEXT)
        return account

    async def start(self, account: str, limit: int = 1000) -> trials.Trial:
        return (await trials.start(self.ledger, account, limit, by=BY))[0]

    async def look(self) -> int:
        """A round of both workers at once; how many trials they ended."""
        return sum(await asyncio.gather(*(worker.round() for worker in self.workers)))

    async def ended(self, account: str) -> dict[str, Any]:
        """The row of a trial, once a round has ended it."""

        async def over() -> bool:
            await self.look()
            row = await self.stack.row("trial", account=account)
            return row is not None and row["state"] != "active"

        await until(over)
        row = await self.stack.row("trial", account=account)
        assert row is not None
        return row

    async def audited(self, account: str) -> list[str]:
        """What the audit has of an account's trial, in order."""
        rows = await self.stack.rows("audit", account=account)
        return [row["action"] for row in rows if row["action"].startswith("trial.")]

    async def granted(self, account: str, amount: int) -> None:
        """Wait for the one grant that the journal has under the trial's key."""

        async def shown() -> bool:
            return bool(await self.stack.rows("journal", account=account, key="trial"))

        await until(shown)
        [entry] = await self.stack.rows("journal", account=account, key="trial")
        assert (entry["type"], entry["amount"], entry["available"]) == ("grant", amount, amount)


@asynccontextmanager
async def opened(redis_url: str, database_url: str) -> AsyncIterator[World]:
    """A world of its own on shared servers."""
    async with Stack(redis_url, database_url, shards=2) as stack:
        ledger = await open_ledger(stack.config)

        async def serves() -> bool:
            return all(shard.open for shard in await ledger.survey())

        await until(serves)
        async with running(SettleLoop(stack.state).run(), Outbox(stack.pool, ledger).run()):
            yield World(stack, ledger, (Trials(stack.pool), Trials(stack.pool)))
        await ledger.close()


@asynccontextmanager
async def closed(world: World, table: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Nobody writes to a table; answers how to wait until somebody is about to."""
    conn = await asyncpg.connect(world.stack.config.database_url)

    async def waiting() -> bool:
        return bool(
            await conn.fetchval(
                "SELECT EXISTS (SELECT FROM pg_locks"
                " WHERE relation = $1::regclass AND NOT granted)",
                table,
            )
        )

    try:
        async with conn.transaction():
            await conn.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
            yield lambda: until(waiting)
    finally:
        await conn.close()


# ── signs of a paid plan ─────────────────────────────────────────────────────────────────────────


async def settings(world: World, account: str, **changed: Any) -> None:
    await world.ledger.put_account(account, changed, context=CONTEXT)


async def assign(world: World, account: str, name: str, **definition: Any) -> None:
    await plans.put(world.ledger.pool, name, Definition(**definition), by=SYSTEM)
    await plans.assign(world.ledger, account, {"plan": name}, context=CONTEXT, by=SYSTEM)


async def buy(world: World, account: str) -> None:
    purchase = Purchase("stripe", f"pi_{account}", account, 5)
    await purchases.buy(world.ledger, purchase, SYSTEM, CONTEXT)


Show = Callable[[World, str], Awaitable[None]]
SIGNS: dict[str, Show] = {
    "paid_plan": lambda world, account: assign(world, account, "paid", paid=True),
    "allowance": lambda world, account: assign(world, account, "gives", credits_per_period=7),
    "purchase": buy,
    "customer_id": lambda world, account: settings(
        world, account, metadata={"customer_id": "cus_1", "subscription_id": ""}
    ),
    "subscription_id": lambda world, account: settings(
        world, account, metadata={"subscription_id": "sub_1", "customer_id": None}
    ),
    "overdraft_limit": lambda world, account: settings(world, account, overdraft_limit=1),
}
