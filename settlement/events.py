"""Events: what systems outside are told of, written with what it tells of or not at all.

An event is a row, inserted in the transaction of its cause; deliveries.py sends it afterwards.
`once` names the happening: whoever emits it again, in whatever worker, writes nothing. An event of
a kind that no endpoint takes is not kept, so a service without endpoints has none.

    once                     the happening
    entry:<shard>:<seq>      an entry was settled
    incident:<number>        an incident was opened
    balance:<account>:<version>:<kind>
                             a balance fell through a threshold by this version of the account

Other emitters choose a beginning of their own. What `once` excludes is a repeat within
`config.event_retention_s`: then the row is pruned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from holdfast.webhooks import ALL, KINDS
from settlement.queries import Connection, sql
from settlement.reader import Entry

KIND_OF_ENTRY: Final[Mapping[str, str]] = {"expire": "hold.expired", "forfeit": "grant.expired"}
"""The entries that are events as well."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event to emit. `data` is a JSON object; amounts in microcredits, times RFC 3339."""

    kind: str
    account: str | None
    data: Mapping[str, Any]
    once: str


async def emit(
    conn: Connection, *, kind: str, account: str | None, data: Mapping[str, Any], once: str
) -> None:
    """Emit one event in the caller's transaction. Raises KeyError for a kind not in KINDS."""
    await emit_all(conn, [Event(kind, account, data, once)])


async def emit_all(conn: Connection, events: Sequence[Event]) -> None:
    """Emit events in the caller's transaction, with one statement. Raises KeyError as `emit`."""
    if not events:
        return
    for event in events:
        KINDS[event.kind]  # a kind that nobody has described is a mistake of the caller
    await conn.execute(
        sql("event_emit"),
        [event.kind for event in events],
        [event.account for event in events],
        [orjson.dumps(event.data).decode() for event in events],
        [event.once for event in events],
    )


async def emit_entries(conn: Connection, entries: Iterable[tuple[int, Entry]]) -> None:
    """Emit what settled entries (with their shards) are events of.

    A batch without such entries costs nothing, one with them a question unless somebody listens.
    """
    found = [pair for pair in entries if pair[1].type in KIND_OF_ENTRY]
    if not found:
        return
    wanted = {row["kind"] for row in await conn.fetch(sql("event_wanted"))}
    await emit_all(
        conn,
        [
            _of_entry(shard, entry)
            for shard, entry in found
            if ALL in wanted or KIND_OF_ENTRY[entry.type] in wanted
        ],
    )


def _of_entry(shard: int, entry: Entry) -> Event:
    """The event of an expire or a forfeit."""
    data: dict[str, Any] = {"hold": entry.hold, "amount": entry.amount}
    if entry.type == "expire":
        data["member"] = entry.member
    else:
        # Of a grant that ran out in a hold the entry names the hold, of another one the grant.
        data["grant"] = orjson.loads(entry.text).get("grant")
    data |= {"available": entry.available, "held": entry.held, "version": entry.version}
    return Event(KIND_OF_ENTRY[entry.type], entry.account, data, f"entry:{shard}:{entry.seq}")
