"""Plans: where one is defined anew, the worker brings the settings of its accounts up to date.

States of an account on a plan: up to date ──the plan gets a new revision──▶ behind ──▶ up to date.

A round, for at most 100 accounts of the shards that this worker claims: read the account, write
those limits that are still what the plan wrote last (what is different, somebody set apart from
the plan, and it stays), note the revision.

Rules. All of it may be repeated: what is written already is no change. Where the row in Postgres
is not what it was when the round began (an assignment came in between, another worker was faster),
what was written is noted as such and looked at again, so that the plan in force wins.

Failures. An account that cannot be changed now is put off for 1 s (a store is away) or 30 s, and
holds up no other. Postgres away: raised; what was not noted is done again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

from holdfast.errors import Conflict, HoldfastError, Unavailable
from holdfast.ledger import Ledger
from holdfast.model import Account, Context
from holdfast.plans import LIMITS
from holdfast.telemetry import Sampler
from settlement.failures import described
from settlement.queries import sql
from settlement.state import WorkerState

PERIOD_S: Final = 1.0
# Accounts of a round, and at a time: each is a read and a write in Redis, some 50 µs, so that a
# plan of 100,000 accounts is through in minutes, and callers do not notice.
_ACCOUNTS: Final = 100
_AT_ONCE: Final = 8
_PUT_OFF_S: Final = 30.0
_AWAY_S: Final = 1.0


class PlanFollower:
    """The service of one worker that lets accounts follow their plans."""

    def __init__(self, state: WorkerState, ledger: Ledger) -> None:
        self.state = state
        self._ledger = ledger
        self._put_off: dict[str, float] = {}
        """Accounts to pass over, and until when."""
        self._working = asyncio.Semaphore(_AT_ONCE)
        self._logs = Sampler(5.0)

    async def run(self) -> None:
        """Rounds until cancelled. Raises what asyncpg raises, and OSError."""
        while True:
            if await self.round() < _ACCOUNTS:
                await asyncio.sleep(PERIOD_S)

    async def round(self) -> int:
        """Bring at most 100 accounts up to date; answers how many were behind."""
        now = time.monotonic()
        self._put_off = {name: until for name, until in self._put_off.items() if until > now}
        shards = [row.number for row in self.state.claimed("open")]
        if not shards:
            return 0
        async with self.state.pool.acquire() as conn:
            behind = await conn.fetch(sql("plan_behind"), shards, _ACCOUNTS, list(self._put_off))
        async with asyncio.TaskGroup() as group:
            for row in behind:
                group.create_task(self._bring(row))
        return len(behind)

    async def _bring(self, row: Mapping[str, Any]) -> None:
        async with self._working:
            try:
                await self._follow(row)
            except HoldfastError as error:
                pause_s = _AWAY_S if isinstance(error, Unavailable) else _PUT_OFF_S
                self._put_off[row["account"]] = time.monotonic() + pause_s
                self._logs.log("plan_not_followed", error.code, error=described(error))

    async def _follow(self, row: Mapping[str, Any]) -> None:
        account = row["account"]
        found = await self._ledger.get_account(account)
        if found.plan != row["plan"]:
            # It is being assigned another one; the row follows in a moment.
            self._put_off[account] = time.monotonic() + _AWAY_S
            return
        changes = changes_of(row, found)
        if changes and found.status != "closed":
            context = Context(f"plan-{row['plan'][:64]}-{row['new_revision']}", "worker")
            try:
                await self._ledger.put_account(
                    account, changes, context=context, durability="memory"
                )
            except Conflict as error:
                if error.code != "account_closed":
                    raise
        limits = [row[f"new_{name}"] for name in LIMITS]
        revisions = (row["revision"], row["new_revision"])
        async with self.state.pool.acquire() as conn:
            done = await conn.fetchval(
                sql("plan_followed"), account, row["plan"], *revisions, *limits
            )
            if done is None and changes:
                await conn.execute(sql("plan_overtaken"), account, list(changes), *limits)


def changes_of(row: Mapping[str, Any], account: Account) -> dict[str, Any]:
    """The limits to write: those that the plan wrote last, and that are others now."""
    found: dict[str, Any] = {}
    for name in LIMITS:
        now, new = getattr(account.limits, name), row[f"new_{name}"]
        if now == row[name] and now != new:
            found[name] = new
    return found
