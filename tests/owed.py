"""What tests of compensations share: to owe something, and to see what was given."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from holdfast import compensations
from holdfast.audit import Caller
from holdfast.compensations import Compensation
from holdfast.compensator import Compensator, Tally
from holdfast.postgres import Pool
from tests.stack import Stack
from tests.vetted import PATIENCE_S

BY: Final = Caller("cli:test")


async def owe(
    pool: Pool, account: str, origin: str = "job-1", of: str | None = "c", amount: int = 10
) -> Compensation:
    owed, _new = await compensations.add(
        pool, account=account, origin=origin, of=of, amount=amount, reason="it failed", by=BY
    )
    return owed


async def row_of(stack: Stack, owed: Compensation) -> dict[str, Any]:
    row = await stack.row("compensation", id=owed.id)
    assert row is not None
    return row


async def given(stack: Stack, account: str) -> tuple[int, int]:
    """What was refunded to an account, and granted beyond the first 100."""
    acct = await stack.acct(account)
    return int(acct.get("refunded", 0)), int(acct["granted"]) - 100


async def finish(compensator: Compensator) -> Tally:
    """Run until nothing is pending, however slow the journal is; what came of it in all."""
    total = Tally()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            tally = await compensator.run()
            total.applied += tally.applied
            total.failed += tally.failed
            if not tally.waiting:
                return total
