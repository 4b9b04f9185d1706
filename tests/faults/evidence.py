"""What Postgres has of a shard, as the judge is given it: rows, and the statements that read them.

Each row's fields are the columns of its statement, in their order.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ACCOUNTS", "LINES", "RECORDS", "SHARDS", "AccountRow", "Line", "RecordRow"]

SHARDS = "SELECT id, mark, chain FROM shard ORDER BY id"


class Line(NamedTuple):
    """A row of the journal."""

    seq: int
    account: str
    version: int | None
    type: str
    hold: str | None
    key: str | None
    amount: int | None
    available: int | None
    held: int | None
    quarantined: bool
    chain: str
    entry: str
    settled_ms: int


LINES = """
SELECT seq, account, version, type, hold, key, amount, available, held, quarantined, chain, entry,
    (extract(epoch FROM settled_at) * 1000)::bigint
FROM journal WHERE shard = $1 ORDER BY seq
"""


class AccountRow(NamedTuple):
    """A row of `account`; no overdraft limit: 0."""

    account: str
    version: int
    status: str
    overdraft_limit: int
    base: int
    in_grants: int
    debt: int
    available: int
    held: int
    granted: int
    refunded: int
    spent: int
    forfeited: int


ACCOUNTS = """
SELECT account, version, status, coalesce(overdraft_limit, 0), base, in_grants, debt, available,
    held, granted, refunded, spent, forfeited
FROM account WHERE shard = $1
"""


class RecordRow(NamedTuple):
    """A row of `record`; no state: '', no deadline: 0."""

    account: str
    key: str
    opened: int
    kind: str
    state: str
    amount: int
    committed: int
    remaining: int
    refunded: int
    uncollected: int
    deadline_ms: int


RECORDS = """
SELECT account, key, opened, kind, coalesce(state, ''), amount, committed, remaining, refunded,
    uncollected, coalesce((extract(epoch FROM deadline) * 1000)::bigint, 0)
FROM record WHERE shard = $1
"""
