"""The audit: who changed what, from where, and what stood there before. Append-only.

    async with conn.transaction():
        ...                                     # the change
        await record(conn, actor="key:k1", action="incident.close", subject="incident:12")

A row is written in the transaction of its change: neither is there without the other. What Redis
decides is recorded by the transaction that settles its entry (`settlement/audited.py`). Postgres
refuses to change or remove a row, whoever asks (`0002_audit.sql`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from holdfast.queries import sql

# Of what others choose, so that no index and no list is burdened by it. The
# longest is member:<account>/<member>, of ids that have at most 128.
_TEXT_MAX: Final = 512


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for a change: the actor, the API key's id, the address, the request."""

    actor: str
    key: str | None = None
    address: str | None = None
    request_id: str | None = None


SYSTEM: Final = Caller("system")
"""What holdfast does of itself, without anybody who asked."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the audit. `at` None: now. `before` and `after` must be JSON."""

    caller: Caller
    action: str
    subject: str
    account: str | None = None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    at: datetime | None = None


async def record_as(caller: Caller, conn: Any, **row: Any) -> None:
    """`record` for whom a caller says: action, subject, account, before and after."""
    await record_rows(conn, [Row(caller, **row)])


async def record(
    conn: Any,
    *,
    actor: str,
    action: str,
    subject: str,
    account: str | None = None,
    key: str | None = None,
    address: str | None = None,
    request_id: str | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Write one row in the caller's transaction. `subject` is what was changed, as kind:name.

    Raises what asyncpg raises, TypeError for what is no JSON.
    """
    caller = Caller(actor, key, address, request_id)
    await record_rows(conn, [Row(caller, action, subject, account, before, after)])


async def record_rows(conn: Any, rows: Sequence[Row]) -> None:
    """Write rows in the caller's transaction, in order. Raises as `record` does."""
    callers = [row.caller for row in rows]
    await conn.execute(
        sql("insert_audit"),
        [row.at for row in rows],
        [_text(caller.actor) for caller in callers],
        [_text(row.action) for row in rows],
        [_text(row.subject) for row in rows],
        [_text(row.account) for row in rows],
        [_text(caller.key) for caller in callers],
        [_text(caller.address) for caller in callers],
        [_text(caller.request_id) for caller in callers],
        [_json(row.before) for row in rows],
        [_json(row.after) for row in rows],
    )


def _text(value: str | None) -> str | None:
    return None if value is None else value[:_TEXT_MAX].replace("\0", "\ufffd")


def _json(value: Mapping[str, Any] | None) -> str | None:
    """JSON that jsonb takes: it keeps no NUL, for which nobody's change must fail."""
    if value is None:
        return None
    return orjson.dumps(value, option=orjson.OPT_UTC_Z).decode().replace("\\u0000", "\\ufffd")
