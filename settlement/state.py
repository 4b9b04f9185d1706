"""What one worker knows of the shards, shared by its services.

The row of a shard in Postgres is the truth; what stands here is a copy. `generation`, `nonce`,
`state` and the boot are as last read. `mark` and `chain` also follow this worker's own settles, so
they may be ahead of an older read, and never of Postgres; whoever meets anything that does not
fit them reads the row again (`refresh`) before it believes in a fault of Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from holdfast.config import Config
from holdfast.shards import Shards
from settlement.queries import Pool, sql

StateName = Literal["open", "vetting", "rebuilding", "stopped"]


@dataclass(slots=True)
class ShardRow:
    """A shard as Postgres has it (`shard` row), and what this worker last saw of it in Redis."""

    number: int
    generation: int = 0
    nonce: str = ""
    mark: int = 0
    chain: str = ""
    state: StateName = "vetting"
    state_reason: str = ""
    run_id: str = ""
    """The boot that was vetted: run_id and replication id of that Redis."""
    replid: str = ""
    claimed: bool = False
    """This worker's claim, as last renewed. It spreads work; it is not a fence."""
    seq: int = 0
    """`meta.seq` as the last read of entries answered it."""
    settled: int = 0
    """`meta.settled`, likewise."""

    @property
    def backlog(self) -> int:
        """Entries that Redis has and the journal lacks, as last seen."""
        return max(self.seq - self.mark, 0)

    def adopt(self, row: Mapping[str, Any], *, force: bool = False) -> None:
        """Take over a row of `shard`.

        A read of the same generation that is older than this worker's own settle does not turn
        the mark back, unless it is `force`d: Postgres itself may have gone back.
        """
        if force or row["generation"] != self.generation or row["mark"] > self.mark:
            self.mark, self.chain = row["mark"], row["chain"]
        self.generation, self.nonce = row["generation"], row["nonce"]
        self.state, self.state_reason = row["state"], row["state_reason"]
        self.run_id, self.replid = row["boot_run_id"], row["boot_replid"]


@dataclass(slots=True)
class WorkerState:
    """Shared by the services of one worker. Only its event loop touches it."""

    pool: Pool
    shards: Shards
    config: Config
    worker_id: str
    rows: list[ShardRow] = field(default_factory=list)
    doubts: dict[int, str] = field(default_factory=dict)
    """Shards that a service found in disorder, with the reason; vetting takes them out."""
    doubted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there is a new doubt, so that vetting does not wait for its next round."""

    def __post_init__(self) -> None:
        if not self.rows:
            self.rows = [ShardRow(number) for number in range(self.shards.count)]

    def doubt(self, number: int, reason: str) -> None:
        """Ask vetting to decide about a shard. The first reason stands until it has."""
        self.doubts.setdefault(number, reason)
        self.doubted.set()

    def claimed(self, *states: StateName) -> list[ShardRow]:
        """The shards this worker claims, in order; only those in one of `states` if given."""
        return [row for row in self.rows if row.claimed and (not states or row.state in states)]

    async def refresh(self, numbers: Iterable[int] | None = None, *, force: bool = False) -> None:
        """Read shard rows (all, or `numbers`) from Postgres. Raises what asyncpg raises.

        `force`: what Postgres says counts even where its mark is behind this worker's own; for
        when an outcome is unknown or a settle was fenced.

        A shard that another worker claims is not ours, whatever this worker was told last: it was
        stopped for longer than its claims live.
        """
        wanted = None if numbers is None else list(numbers)
        async with self.pool.acquire() as conn:
            for row in await conn.fetch(sql("shard_rows"), wanted):
                if row["id"] < len(self.rows):
                    known = self.rows[row["id"]]
                    known.adopt(row, force=force)
                    known.claimed = known.claimed and row["claimed_by"] in ("", self.worker_id)
