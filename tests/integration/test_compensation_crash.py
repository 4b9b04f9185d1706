"""A worker that is killed while it gives what is owed: whatever the point, each effect is once."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter

from holdfast.embedded import Postgres, Valkey
from holdfast.postgres import Pool
from settlement import failpoints
from tests.commands import assert_reconciled, command
from tests.owed import owe
from tests.stack import Stack
from tests.vetted import PATIENCE_S, until

_SETTLE = ("holdfast", "settle")
_KINDS = {"refund": "c", "grant": None}


async def bury(stack: Stack) -> None:
    """As if the claims of the dead had run out, and what it put off were due."""
    await stack.pool.execute("UPDATE shard SET claimed_until = '-infinity'")
    await stack.pool.execute("UPDATE compensation SET claimed_until = NULL")
    await stack.pool.execute("UPDATE outbox SET next_try_at = clock_timestamp()")


async def test_each_effect_is_once_wherever_a_worker_dies(
    valkey_server: Valkey, postgres_server: Postgres
) -> None:
    """Given workers of which each dies at another point, and the next takes up what it left, I
    expect one refund and one grant for each account, in both stores alike."""
    accounts = [f"account-{point}" for point in failpoints.COMPENSATION_POINTS]
    async with Stack(valkey_server.url, postgres_server.url, shards=1) as stack:
        for account in accounts:
            await stack.open(account, grant=100)
            await stack.charge(account, "c", 40)
        for point, account in zip(failpoints.COMPENSATION_POINTS, accounts, strict=True):
            for kind, of in _KINDS.items():
                await owe(Pool(stack.pool), account, kind, of)
            async with command(stack, *_SETTLE, test_failpoint=f"{point}:1") as doomed:
                _, said = await asyncio.wait_for(doomed.communicate(), PATIENCE_S)
                assert doomed.returncode == -signal.SIGKILL, said.decode()
            await bury(stack)

        async def all_given() -> bool:
            rows = await stack.rows("compensation")
            return {row["state"] for row in rows} == {"applied"}

        async with command(stack, *_SETTLE):
            await until(all_given)
        for account in accounts:
            entries = await stack.rows("journal", account=account)
            found = Counter((e["type"], e["key"]) for e in entries if e["key"] not in ("c", None))
            owed = {(kind, f"compensation:{kind}"): 1 for kind in _KINDS}
            assert {each: n for each, n in found.items() if each[1].startswith("comp")} == owed
        await assert_reconciled(stack)
