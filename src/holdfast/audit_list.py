"""The audit, read: newest first, in pages, of one account or one actor or all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from holdfast.errors import InvalidRequest
from holdfast.lists import Page
from holdfast.postgres import Pool
from holdfast.queries import sql

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One row of the audit; `before` and `after` as they were written."""

    id: int
    at_us: int
    """Microseconds since 1970."""
    actor: str
    action: str
    subject: str
    account: str | None
    key: str | None
    address: str | None
    request_id: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None

    @property
    def at(self) -> datetime:
        return _time(self.at_us)


async def audit_page(
    pool: Pool,
    *,
    account: str | None = None,
    actor: str | None = None,
    since: datetime | None = None,
    after: str | None = None,
    limit: int,
) -> Page[AuditRow]:
    """Rows that are all of these, newest first; `since` is included.

    Raises InvalidRequest for a cursor that is none, StoreUnavailable.
    """
    at, number = (None, 0) if after is None else _cursor(after)
    rows = await pool.fetch(sql("list_audit"), account, actor, since, at, number, limit + 1)
    data = [_row(row) for row in rows[:limit]]
    return Page(data, f"{data[-1].at_us}~{data[-1].id}" if len(rows) > limit else None)


def _row(row: Any) -> AuditRow:
    before, after = (
        None if row[name] is None else orjson.loads(row[name]) for name in ("before", "after")
    )
    return AuditRow(**{**row, "before": before, "after": after})


def _time(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


def _cursor(text: str) -> tuple[datetime, int]:
    """The time and the id that a page ended with. Raises InvalidRequest."""
    try:
        at, number = (int(part) for part in text.split("~"))
        if not 0 <= number < 2**63:
            raise ValueError(number)
        return _time(at), number
    except (ValueError, OverflowError) as error:
        raise InvalidRequest.of_field("after", "must be `next` of the page before") from error
