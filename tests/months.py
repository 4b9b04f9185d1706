"""A journal of several past months, written by the scripts themselves under a clock that is set.

`python -m tests.months DIR` archives January in the stores that the environment names, so that it
can be killed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from unittest import mock

from holdfast.config import Config
from holdfast.embedded import Postgres, Valkey
from holdfast.shards import Shards
from holdfast.wire import Wire
from settlement import failpoints
from settlement.archive import Archived, archive
from settlement.archive_restore import restore
from settlement.pool import open_pool
from settlement.reconcile import Report, reconcile
from tests import stack as stack_module
from tests.stack import Stack

JANUARY, FEBRUARY, MARCH = (date(2025, month, 1) for month in (1, 2, 3))
# Records end by their time to live, which is counted from the clock that is set.
_WINDOW_MS = 20 * 366 * 86_400_000
WINDOW_S = 86_400


def older_than(month: date) -> int:
    """How old a month must be asked to be, so that this one is archived, and no later one."""
    now = datetime.now(UTC)
    return (now.year - month.year) * 12 + now.month - month.month - 1


@asynccontextmanager
async def past(valkey: Valkey, postgres: Postgres, *, shards: int = 2) -> AsyncIterator[Stack]:
    """A stack that begins in January 2025, whose journal has partitions from then on."""
    stack = Stack(valkey.url, postgres.url, shards=shards, vet=False, test_clock=True)
    with mock.patch.object(stack_module, "WINDOW_MS", _WINDOW_MS):
        async with stack:
            for month in (JANUARY, FEBRUARY, MARCH):
                await stack.pool.execute("SELECT journal_partition($1)", month)
            await turn(stack, "2025-01-10T12:00:00Z")
            await stack.vet()
            yield stack


async def turn(stack: Stack, moment: str | None) -> None:
    """Set the clock of every shard, or let it run: None."""
    for keys in stack.shards.keys:
        if moment is None:
            await stack.command("HDEL", keys.meta, "test_now_ms")
        else:
            at_ms = int(datetime.fromisoformat(moment).timestamp() * 1000)
            await stack.command("HSET", keys.meta, "test_now_ms", at_ms)


async def settle_then(stack: Stack) -> None:
    """Settle, as a worker of the time would have: a moment after the entries were made."""
    await stack.settle()
    await stack.pool.execute(
        "UPDATE journal SET settled_at = at + interval '1 second' WHERE at < '2026-01-01'"
    )


async def three_months(stack: Stack) -> None:
    """Accounts that live from January to March and beyond, one that ends in January, one that
    begins in March; holds, debts, members, refunds and expiring grants over the ends of months."""
    for name in ("acme", "other", "third", "quiet"):
        await stack.open(name, "overdraft_limit", "50", grant=1000)
        await stack.charge(name, "c1", 20)
        await stack.reserve(name, "h1", 30)
        await stack.commit(name, "h1", 5, final=False, op_key="part")
        await stack.commit(name, "h1", 12)
    expires = int(datetime(2025, 2, 20, tzinfo=UTC).timestamp() * 1000)
    await stack.grant("acme", "promo", 70, expires_ms=expires)
    await turn(stack, "2025-01-31T23:59:50Z")
    await stack.reserve("acme", "over", 100)
    await stack.reserve("third", "late", 9, ttl_ms=1000)
    await settle_then(stack)
    await turn(stack, "2025-02-01T00:00:05Z")
    await stack.commit("acme", "over", 90)
    await stack.expire("third", "late")
    await stack.refund("acme", "r1", "c1", 4)
    await stack.member("other", "bob", "500")
    await turn(stack, "2025-02-14T00:00:00Z")
    await stack.charge("other", "c2", 1000, on_shortfall="debt")
    await settle_then(stack)
    await turn(stack, "2025-03-02T00:00:00Z")
    await stack.grant("other", "topup", 500)
    await stack.expire("acme")
    await stack.open("new", grant=10)
    await settle_then(stack)
    await turn(stack, None)
    await stack.charge("acme", "now", 1)
    await settle_then(stack)


def options(month: date) -> dict[str, Any]:
    """What `archive` is asked for every month up to this one."""
    return {
        "months": older_than(month),
        "key_window_s": WINDOW_S,
        "version": "1.2.3",
        "actor": "cli:test",
    }


async def archived(stack: Stack, directory: Path, month: date, **others: Any) -> list[Archived]:
    """Archive every month up to this one."""
    found = archive(stack.pool, stack.shards, directory, **options(month) | others)
    return [each async for each in found]


async def put_back(stack: Stack) -> None:
    """Restore every month that is archived."""
    for row in reversed(await stack.rows("archive")):
        await stack.pool.execute(f"DROP TABLE IF EXISTS journal_{row['month']:%Y_%m}")
        await restore(stack.pool, Path(row["file"]), actor="cli:test")


async def look(stack: Stack, account: str | None = None) -> Report:
    """A full reconcile."""
    return await reconcile(stack.pool, stack.shards, window_s=WINDOW_S, account=account)


async def assert_agrees(stack: Stack, account: str | None = None) -> Report:
    """It finds nothing, and compares everything."""
    report = await look(stack, account)
    assert (report.findings, report.uncompared, report.exit_code) == ([], [], 0)
    return report


async def _alone(directory: Path) -> None:
    """Archive January, as a command does, with the fail-point that the environment names."""
    config = Config()
    failpoints.arm(config.test_failpoint)
    pool = await open_pool(config)
    wire = Wire(config.redis_url or "", timeout_ms=config.call_timeout_ms)
    await wire.connect()
    shards = Shards(wire, config.prefix, config.shards)
    async for each in archive(pool, shards, directory, **options(JANUARY)):
        sys.stdout.write(f"{each.month}\n")


if __name__ == "__main__":
    asyncio.run(_alone(Path(sys.argv[1])))
