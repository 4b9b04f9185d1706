"""Trials: the worker ends those of accounts that show signs of a paid plan, or that expired.

States of a trial: active ──a sign──▶ overridden; active ──its expiry──▶ ended.

A round walks the active trials by account, at most 10,000 of them, and goes on with the next ones
in the next round. What is over ends in one Postgres transaction with its rows of the audit.

Rules. Only what is active ends, and who ends it keeps its row until the end of his transaction: so
each ends once, however many workers look. Nothing depends on the moment: credits are not touched.

Failures. Postgres away, or a worker that is killed: nothing of the transaction has happened, and
the next walk finds the same. The log line comes after the transaction; the audit has what it lacks.
"""

from __future__ import annotations

import asyncio
from typing import Final

from holdfast import trials
from holdfast.queries import sql
from holdfast.telemetry import log
from holdfast.trials import Sign
from settlement.queries import Pool

# Nobody waits for it: an operator reads it, and it is counted by the day.
PERIOD_S: Final = 2.0
# Trials of one look: five look-ups by index each, 10 to 20 ms with 50,000 trials.
_TOGETHER: Final = 500
# Looks of a round, so that a worker is at it for a tenth of its time at most.
_LOOKS: Final = 20


class Trials:
    """The service of one worker. Several at once find the same, and end it once."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._next = ""
        """The account with which the next look begins."""

    async def run(self) -> None:
        """Rounds until cancelled. Raises what asyncpg raises, and OSError."""
        while True:
            await self.round()
            await asyncio.sleep(PERIOD_S)

    async def round(self) -> int:
        """Look at 10,000 active trials at most, up to the last one; answers how many it ended."""
        ended = 0
        for _ in range(_LOOKS):
            ended += await self._look()
            if not self._next:
                break
        return ended

    async def _look(self) -> int:
        """Look at 500 active trials at most; answers how many it ended."""
        async with self._pool.acquire() as conn:
            rows = await conn.fetch(sql("trial_signs"), self._next, _TOGETHER + 1)
            found = {row["account"]: trials.signs_of(row) for row in rows[:_TOGETHER]}
            expired = {row["account"] for row in rows if row["expired"]}
            over = {name: signs for name, signs in found.items() if signs or name in expired}
            ended: dict[str, list[Sign]] = {}
            if over:
                async with conn.transaction():
                    ended = await trials.close(conn, over)
        for account, signs in ended.items():
            if signs:
                log("trial_overridden", account=account, signs=signs)
        self._next = rows[_TOGETHER]["account"] if len(rows) > _TOGETHER else ""
        return len(ended)
