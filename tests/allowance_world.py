"""A holdfast whose days a test decides: the clock of its scripts stands still until it is moved.

What is given by period is looked at over months, so nothing here waits for time to pass: a worker's
round is told what day it is, the scripts read their clock from Redis, and what the outbox puts off
is due at once.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any

from holdfast import plans
from holdfast.audit import SYSTEM
from holdfast.ledger import Ledger
from holdfast.model import Context
from holdfast.plans import Definition
from holdfast.postgres import Pool
from settlement.allowances import Allowances
from settlement.outbox import Outbox
from tests.stack import Stack
from tests.vetted import running, settle_all, until

CONTEXT = Context("test", "test")
# Ahead of this machine's clock, for a lease tells the scripts that time has not gone back.
YEAR = datetime.now(UTC).year + 1


def day(text: str) -> date:
    """MM-DD of the first year that a test lives through."""
    return date.fromisoformat(f"{YEAR}-{text}")


class World:
    """A stack, its ledger, and the services that give credits."""

    def __init__(self, stack: Stack, ledger: Ledger) -> None:
        self.stack = stack
        self.ledger = ledger
        self.pool = Pool(stack.pool)
        self.allowances = Allowances(stack.pool)
        self.outbox = Outbox(stack.pool, ledger)
        self.now = datetime(YEAR, 1, 1, tzinfo=UTC)
        self._settles = 0

    async def move_to(self, at: datetime | date) -> None:
        """Let it be then, for the scripts and for the next round; what is due expires."""
        if not isinstance(at, datetime):
            at = datetime(at.year, at.month, at.day, 12, tzinfo=UTC)
        self.now = at
        await self.stack.renew_leases()
        for keys in self.stack.shards.keys:
            now_ms = int(at.timestamp() * 1000)
            moved = ("test_now_ms", now_ms, "clock_ms", now_ms)  # back as well, for another test
            await self.stack.command("HSET", keys.meta, *moved)

    async def define(self, name: str, **definition: Any) -> None:
        await plans.put(self.pool, name, Definition(**definition), by=SYSTEM)

    async def begin(self, account: str, plan: str, anchor: date | None = None) -> None:
        """Open an account on a plan, now."""
        await self.assign(account, plan, anchor=anchor)
        # The database's own clock, which starts an allowance, is not this world's.
        await self.stack.pool.execute(
            "UPDATE allowance SET next_at = $2 WHERE account = $1", account, self.now.date()
        )

    async def assign(self, account: str, plan: str, **more: Any) -> None:
        await plans.assign(self.ledger, account, {"plan": plan}, context=CONTEXT, by=SYSTEM, **more)
        await settle_all(self.stack)

    async def bring(self) -> None:
        """What the outbox owes, into Redis and the journal, while entries settle."""
        async with running(self._settle()):
            for _ in range(10):
                await self.stack.pool.execute(
                    "UPDATE outbox SET next_try_at = '-infinity' WHERE state = 'pending'"
                )
                # A row is applied in one turn; a later one finds that the journal shows it.
                if not await self.outbox.turn():
                    return
                await self._all_settled()
        raise AssertionError(await self.stack.rows("outbox", state="pending"))

    async def _settle(self) -> None:
        while True:
            await settle_all(self.stack)
            self._settles += 1
            await asyncio.sleep(0.005)

    async def _all_settled(self) -> None:
        """What is in Redis now: a settle may have been under way, the one after it was not."""
        enough = self._settles + 2
        await until(lambda: self._settles >= enough)

    async def work(self, *accounts: str) -> None:
        """All that a worker does at this time: expire, refresh, apply, settle, roll over."""
        for account in accounts:
            await self.ledger.get_account(account)  # which expires what is due
        await settle_all(self.stack)
        await self.allowances.round(self.now)
        await self.bring()
        _, rolled = await self.allowances.round(self.now)
        if rolled:
            await self.bring()

    async def spend(self, account: str, key: str, amount: int) -> None:
        await self.ledger.charge(account, key, amount=amount, context=CONTEXT)

    async def history(self, account: str) -> list[dict[str, Any]]:
        """Its periods, oldest first."""
        return await self.stack.rows("allowance_refresh", account=account)

    async def check(self, account: str) -> list[dict[str, Any]]:
        """Every day in one period, and what they gave is what the journal has; the periods."""
        periods = await self.history(account)
        for before, after in pairwise(periods):
            assert before["period_end"] == after["period_start"]
        given = {
            f"{kind}:{row['period_start']}": (row[column], row["period_end"])
            for row in periods
            for kind, column in (("allowance", "granted"), ("rollover", "rolled_over"))
            if row[column]
        }
        entries = await self.stack.rows("journal", account=account, type="grant")
        assert {row["key"]: row["amount"] for row in entries} == {
            key: amount for key, (amount, _) in given.items()
        }
        assert len(entries) == len(given)
        owed = await self.stack.rows("outbox", account=account)
        assert {row["key"]: row["expires_at"].date() for row in owed} == {
            key: end for key, (_, end) in given.items()
        }
        return periods
