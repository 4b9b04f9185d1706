"""Incidents: what the stores did that they must not do, with numbers, kept in Postgres.

`record` is for what happened once. `begin` and `end` are for a condition that lasts: it is one open
incident however many workers see it and however often, and it closes itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import orjson

from holdfast import audit
from settlement import events
from settlement.queries import Connection, sql

KINDS: Final[Mapping[str, str]] = {
    "rebuild": "a shard of Redis was thrown away and rebuilt from the journal",
    "postgres_went_back": "Redis has settled more than the journal holds: Postgres lost commits",
    "stopped": "a shard was stopped: neither store alone can be trusted with it",
    "lost_tail": "Redis came back without entries that a worker had seen",
    "unsynced_restart": "a Redis that promises `memory` runs anew: its last moments may be gone",
    "quarantine": "Postgres rejected an entry; its account is frozen",
    "quarantine_ended": "an operator applied or voided what an account had in quarantine",
    "clock": "the clocks of Redis and Postgres are more than a second apart",
    "clock_reset": "an operator let shards go on from an earlier time than they had recorded",
    "redis_settings": "a Redis node is kept closed because of its settings",
}
"""Every kind of incident, and what it means."""

_Row = tuple[str, int | None, str | None, str, str]
"""kind, shard, account, summary, details (JSON): what the statements take."""

PAGE_MAX: Final = 1000
"""The most incidents that one listing answers, as everywhere in the API."""


async def record(
    conn: Connection,
    kind: str,
    summary: str,
    *,
    shard: int | None = None,
    account: str | None = None,
    **details: Any,
) -> int:
    """Write one incident down; answers its number. Raises KeyError for a kind not in KINDS."""
    row = _row(kind, summary, shard, account, details)
    async with conn.transaction():
        number: int = await conn.fetchval(sql("incident_record"), *row)
        await _emit(conn, number, row)
    return number


async def begin(
    conn: Connection,
    kind: str,
    summary: str,
    *,
    subject: str,
    shard: int | None = None,
    **details: Any,
) -> int | None:
    """Open an incident about `subject` unless one of its kind is open; answers a new one's id."""
    row = _row(kind, summary, shard, None, {"subject": subject, **details})
    async with conn.transaction():
        number: int | None = await conn.fetchval(sql("incident_begin"), *row)
        if number is not None:
            await _emit(conn, number, row)
    return number


async def end(conn: Connection, kind: str, *, subject: str) -> None:
    """The condition is over: close its incident, if one is open."""
    await conn.execute(sql("incident_end"), _known(kind), subject)


async def close(conn: Connection, number: int, by: str) -> bool:
    """An operator has dealt with it; False if there is no such open incident."""
    async with conn.transaction():
        row = await conn.fetchrow(sql("incident_close"), number, by)
        if row is None:
            return False
        await audit.record(
            conn,
            actor=by,
            action="incident.close",
            subject=f"incident:{number}",
            account=row["account"],
            before={"kind": row["kind"], "summary": row["summary"]},
        )
    return True


async def listing(
    conn: Connection, *, only_open: bool = False, before: int | None = None, limit: int = 100
) -> list[dict[str, Any]]:
    """Incidents, newest first; `before` is the number of the last one of the previous page."""
    rows = await conn.fetch(sql("incident_list"), only_open, before, max(1, min(limit, PAGE_MAX)))
    return [dict(row) | {"details": orjson.loads(row["details"])} for row in rows]


async def _emit(conn: Connection, number: int, row: _Row) -> None:
    """Tell of a new incident whoever wants to know."""
    kind, shard, account, summary, _details = row
    data = {"incident": number, "kind": kind, "summary": summary, "shard": shard}
    await events.emit(
        conn, kind="incident.opened", account=account, data=data, once=f"incident:{number}"
    )


def _known(kind: str) -> str:
    KINDS[kind]  # a kind that nobody has described is a mistake of the caller
    return kind


def _row(
    kind: str, summary: str, shard: int | None, account: str | None, details: Mapping[str, Any]
) -> _Row:
    text = orjson.dumps(details, default=_plain).decode()
    return _known(kind), shard, account, summary, text


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} in the details of an incident")
