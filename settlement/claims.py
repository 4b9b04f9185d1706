"""Claims: which worker works on which shard. They spread work, and fence nothing.

A worker says twice a second that it is alive, renews its claims, and takes what is free up to its
fair share: shards over living workers, rounded up. What it has beyond that, because another worker
came, it gives back, highest numbers first. Two workers that both think a shard theirs do harm to
nobody: the mark moves by compare-and-set, and a lease needs the claim in Postgres.
"""

from __future__ import annotations

import asyncio

from settlement.queries import sql
from settlement.state import WorkerState

# A worker that died leaves its shards closed for this long at most, and then for one round. Six
# rounds fit in it, so that a slow one is not taken for dead.
CLAIM_S = 3.0
_ROUND_S = 0.5


class Claims:
    """The service that keeps `state.rows[...].claimed` and the rest of the rows up to date."""

    def __init__(self, state: WorkerState) -> None:
        self.state = state
        self._given_back: set[int] = set()

    async def run(self) -> None:
        """A round twice a second, until cancelled. Raises what asyncpg raises, and OSError."""
        while True:
            await self.round()
            await asyncio.sleep(_ROUND_S)

    async def round(self) -> None:
        """Renew, take, give back; then read all rows again."""
        state = self.state
        async with state.pool.acquire() as conn:
            await conn.execute(sql("claim_beat"), state.worker_id)
            rows = await conn.fetch(sql("claim_take"), state.worker_id, CLAIM_S)
        claimed = {row["id"] for row in rows}
        # What was given back is worked on for one more round, so that nobody misses a settle
        # before its next owner has found it.
        before = {row.number for row in state.rows if row.claimed} - self._given_back
        self._given_back = before - claimed
        for row in state.rows:
            row.claimed = row.number in claimed or row.number in self._given_back
        await state.refresh()

    async def release(self) -> None:
        """Give everything back. Raises what asyncpg raises, and OSError."""
        for row in self.state.rows:
            row.claimed = False
        async with self.state.pool.acquire() as conn:
            await conn.execute(sql("claim_release"), self.state.worker_id)
