"""The outbox service: brings what Postgres owes to accounts into Redis, each thing once.

States of a row. pending: taken by a worker when its time has come; the taking puts it off, so that
workers share the rows without talking to each other. applied: the journal shows the entry. failed:
the ledger refused it for a reason that stays (no such account, account closed, amount limit); an
operator reads why, mends it, and retries it.

A turn, for each row that was taken:

    look at the journal ─▶ shown: mark it applied
                        ─▶ under review: put it off
                        ─▶ lacking: apply it in Redis, look again shortly

Rules. What Redis answers is never taken for the end: an entry that Redis loses before it is settled
was not applied, and is applied again. Nothing is ever applied twice: while Redis or the journal has
the key's record, the call is a replay; later than that, the mark at which the journal lacked the
key must not be older than the account's last grant (`lua/lib/owed.lua`).

Failures. A worker that dies at any point leaves rows pending, put off by 5 s. Redis or Postgres
away: the row is tried again after 0.4 to 10 s, for as long as it takes. A bug with one row is
logged and holds up no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from holdfast.errors import Conflict, HoldfastError
from holdfast.ledger import Ledger
from holdfast.model import Context
from holdfast.outbox import Owed, apply, enqueue, fail, is_final
from holdfast.telemetry import Sampler, log
from settlement import failpoints
from settlement.failures import POSTGRES_FAILURES, described
from settlement.queries import Connection, Pool, sql

__all__ = ["Outbox", "enqueue", "listing", "retry"]

# What waits for a worker that is idle: rows whose caller did not apply them itself.
PERIOD_S: Final = 0.25
# Rows of a turn, and how many of them at a time: each asks Postgres three times, by connections
# that the settlement does not need. A hundred are done before 5 s are over.
_ROWS: Final = 100
_AT_ONCE: Final = 4
# A settle takes some 50 ms to show an entry. Where it takes longer, each look is half as frequent.
_LOOK_AGAIN_S: Final = 0.1
# A shard that is vetted is closed for less than a second; a store can be away for hours.
_TRY_AGAIN_S: Final = 0.2
_LAST_S: Final = 10.0
_REVIEW_S: Final = 30.0
_ERROR_MAX: Final = 500
PAGE_MAX: Final = 1000
"""The most rows of one page, as everywhere in the API; a listing answers one more, to say so."""


class Outbox:
    """The service of one worker. Several at once share the rows."""

    def __init__(self, pool: Pool, ledger: Ledger) -> None:
        self._pool = pool
        self._ledger = ledger
        self._working = asyncio.Semaphore(_AT_ONCE)
        self._logs = Sampler(5.0)

    async def run(self) -> None:
        """Turns until cancelled. Raises what asyncpg raises; then it is to be run again."""
        while True:
            if await self.turn() < _ROWS:
                await asyncio.sleep(PERIOD_S)

    async def turn(self) -> int:
        """Take the rows whose time has come, and do what each needs; answers how many got on."""
        async with self._pool.acquire() as conn:
            taken = {row["id"]: row for row in await conn.fetch(sql("outbox_take"), _ROWS)}
            if not taken:
                return 0
            failpoints.hit("outbox_taken")
            found = await conn.fetch(sql("outbox_look"), list(taken))
            await self._mark(conn, [row["id"] for row in found if row["shown"]])
        lacking = [row for row in found if not row["shown"]]
        failpoints.hit("outbox_looked")
        results = await asyncio.gather(
            *(self._bring(taken[row["id"]], row) for row in lacking), return_exceptions=True
        )
        for result in results:
            if isinstance(result, POSTGRES_FAILURES):
                raise result
            if isinstance(result, BaseException):
                self._logs.log("outbox_put_off", type(result).__name__, error=described(result))
        return len(taken) - len(lacking) + sum(result is True for result in results)

    async def _mark(self, conn: Connection, shown: Sequence[int]) -> None:
        if not shown:
            return
        failpoints.hit("outbox_shown")
        await conn.execute(sql("outbox_applied"), shown)
        failpoints.hit("outbox_marked")

    async def _bring(self, row: Mapping[str, Any], look: Mapping[str, Any]) -> bool:
        """Apply one row in Redis, and note what came of it; False where it was put off."""
        owed = Owed.of_row(row)
        async with self._working:
            if look["voided"]:
                await self._fail(owed, Conflict("an operator voided its entry", "voided"))
                return True
            if look["quarantined"]:
                await self._again(row, _REVIEW_S, "the account is under review by an operator")
                return False
            try:
                await apply(self._ledger, owed, Context(f"outbox-{row['id']}", "outbox"))
            except HoldfastError as error:
                if is_final(error):
                    await self._fail(owed, error)
                    return True
                await self._put_off(row, error)
                return False
            failpoints.hit("outbox_granted")
            await self._again(row, _pause_s(row, _LOOK_AGAIN_S), None)
            return True

    async def _put_off(self, row: Mapping[str, Any], error: HoldfastError) -> None:
        self._logs.log("outbox_put_off", error.code, error=error.detail)
        why = f"{error.code}: {error.detail}"[:_ERROR_MAX]
        await self._again(row, _pause_s(row, _TRY_AGAIN_S), why)

    async def _again(self, row: Mapping[str, Any], pause_s: float, error: str | None) -> None:
        async with self._pool.acquire() as conn:
            await conn.execute(sql("outbox_again"), row["id"], pause_s, error)

    async def _fail(self, owed: Owed, error: HoldfastError) -> None:
        async with self._pool.acquire() as conn:
            if await fail(conn, owed, error):
                log("outbox_failed", account=owed.account, key=owed.key, error=error.detail)


def _pause_s(row: Mapping[str, Any], first_s: float) -> float:
    """Twice as long each time: the tenth is above any bound."""
    return min(first_s * float(2 ** min(row["attempts"], 10)), _LAST_S)


async def listing(
    conn: Connection, *, state: str | None = None, before: int | None = None, limit: int = 100
) -> list[dict[str, Any]]:
    """Rows, newest first; `before` is the number of the last one of the previous page."""
    rows = await conn.fetch(sql("outbox_list"), state, before, max(1, min(limit, PAGE_MAX + 1)))
    return [dict(row) | {"metadata": _parsed(row["metadata"])} for row in rows]


def _parsed(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)


async def retry(conn: Connection, number: int) -> str | None:
    """Try a failed row again; answers its account, or None where no such row has failed."""
    account: str | None = await conn.fetchval(sql("outbox_retry"), number)
    return account
