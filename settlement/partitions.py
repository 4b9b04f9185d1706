"""The journal's partitions: one a month (UTC), made ahead of time.

Entries of a time without a partition land in the default one, so nothing depends on this but the
ease of detaching old months.
"""

from __future__ import annotations

from settlement.queries import Connection, sql

# A worker that is down for two months still finds the partition it needs.
MONTHS_AHEAD = 2


async def make_partitions(conn: Connection) -> int:
    """Make the partitions of this month and of the next two; answers how many were missing.

    Raises what asyncpg raises; where the default partition is in use for longer than the
    connection's `lock_timeout`, that is LockNotAvailableError, and the next round tries again.
    """
    made: int = await conn.fetchval(sql("partition_insert"), MONTHS_AHEAD)
    return made
