"""Whether a month of the journal may be archived: is it settled for good, and nothing of it open?

    its time     no entry stands in the default partition, where no month is told
    its shards   no entry of it can still come: each shard has settled one of a later day, or Redis
                 has none that waits
    its entries  all were settled a day ago; none of them, nor any before, waits in quarantine

Looks, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final

from holdfast.shards import Shards
from holdfast.wire import WireError
from settlement.archive_file import month_name, span_of
from settlement.failures import described
from settlement.queries import Connection, sql

# However few months an operator names: clocks are within a second, so a day is far from any doubt.
SETTLED_S: Final = 86_400
# Counting a month of a hundred million entries takes a minute; nobody waits for that.
STATEMENT_S: Final = 600.0


class ArchiveRefused(Exception):
    """A month that is not archived, and nothing of it was changed. The message says why."""


@dataclass(slots=True)
class Month:
    """A month while it is archived."""

    first: date
    ends: list[Mapping[str, Any]] = field(default_factory=list)
    """Per shard that has entries in it: where its journal begins, and its last entry of it."""
    carried: list[tuple[int, int, datetime]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return month_name(self.first)

    @property
    def span(self) -> tuple[datetime, datetime]:
        return span_of(self.first)


async def examine(conn: Connection, shards: Shards, month: Month) -> None:
    """Is the month settled for good, and nothing of it open? Raises ArchiveRefused."""
    first, after = month.span
    other = await conn.fetchrow(sql("archive_other"), after, timeout=STATEMENT_S)
    if other["entries"]:
        at = f"{other['first_at']:%Y-%m-01}"
        raise ArchiveRefused(
            f"{month.name}: {other['entries']} entries of it or before stand in the default"
            f" partition, journal_other. Give them theirs: SELECT journal_partition('{at}')"
        )
    await _examine_shards(conn, shards, month, after)
    ends = await conn.fetch(sql("archive_ends"), first, after, float(SETTLED_S))
    month.ends = [row for row in ends if row["last"] is not None]
    for row in month.ends:
        if row["fresh"]:  # a Postgres that fails over may lose it again, and settle it anew
            raise ArchiveRefused(
                f"{month.name}: entry {row['last']} of shard {row['shard']} was settled less than a"
                " day ago; call again tomorrow"
            )
    await _examine_quarantine(conn, month)


async def _examine_shards(conn: Connection, shards: Shards, month: Month, after: datetime) -> None:
    """Can an entry of the month still come? What settles is in order, so not where a shard has
    settled one of a later day; else Redis must have none that waits."""
    settled_s = timedelta(seconds=SETTLED_S)
    for row in await conn.fetch(sql("archive_marks"), after + settled_s):
        if row["beyond"]:
            continue
        number, keys = row["id"], shards.keys[row["id"]]
        why = f"{month.name}: shard {number} has settled nothing of a later time, and"
        try:
            nonce, seq = await shards.wire.call(keys.slot, "HMGET", keys.meta, "nonce", "seq")
        except WireError as error:
            raise ArchiveRefused(
                f"{why} Redis does not say whether entries wait there: {described(error)}"
            ) from error
        if (nonce or b"").decode() != row["nonce"]:
            raise ArchiveRefused(f"{why} Redis is in another generation than Postgres")
        if int(seq or 0) > row["mark"]:
            waiting = int(seq) - row["mark"]
            raise ArchiveRefused(f"{why} {waiting} entries of it wait in Redis to be settled")


async def _examine_quarantine(conn: Connection, month: Month) -> None:
    columns = [row["shard"] for row in month.ends], [row["last"] for row in month.ends]
    row = await conn.fetchrow(sql("archive_waiting"), *columns)
    if row["entries"]:
        raise ArchiveRefused(
            f"{month.name}: {row['entries']} entries of it or before wait in quarantine, the"
            f" first is number {row['id']} of account {row['account'] or 'unknown'}: end them"
            " with `holdfast quarantine`"
        )
