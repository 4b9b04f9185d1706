"""What the audit has of a batch of entries: settings, freezes, and credits given by hand.

Redis decides these, and the entry is the durable fact; so the transaction that settles the entry
writes the row, exactly once, however long Postgres was away when the call was made. Work (reserve,
commit, charge, ...) is not in the audit: a batch of it costs no statement here.

What a setting was before is read in the same transaction, before the batch is applied. Two changes
of one account in a batch follow from each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from holdfast import audit
from settlement.fold import MEMBER_LIMITS, Rejected, movement
from settlement.queries import Connection, sql
from settlement.reader import Entry, raw_bytes

AUDITED: Final = frozenset({"open", "settings", "freeze", "adjust", "grant", "refund"})
"""Types of entries that are in the audit; the limits of a member are `settings` too."""

# Texts; all other settings are amounts, or a count of holds.
_TEXTS: Final = frozenset({"status", "plan", "models", "metadata"})
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_KEY: Final = "key:"  # how an actor that is an API key begins (holdfast/api_keys.py)


async def record_entries(conn: Connection, entries: Sequence[Entry]) -> None:
    """Write what the audit has of these entries, before they are applied. In order of a shard.

    Entries in quarantine come here when an operator applies them. Raises Rejected for one that
    tells what no script writes, and what asyncpg raises.
    """
    found = [entry for entry in entries if entry.type in AUDITED]
    if not found:
        return
    known = await _settings_before(conn, [entry for entry in found if entry.settings])
    try:
        await audit.record_rows(conn, [_row(entry, known) for entry in found])
    except (ValueError, TypeError, AttributeError) as error:  # of numbers and texts beyond JSON too
        raise Rejected(f"entries {found[0].seq} to {found[-1].seq}: {error}") from error


_Settings = dict[tuple[str, str | None], dict[str, Any]]
"""(account, member or None) → what is set, by name."""


async def _settings_before(conn: Connection, entries: Sequence[Entry]) -> _Settings:
    accounts = list({entry.account for entry in entries if entry.member is None})
    members = list({(entry.account, entry.member) for entry in entries if entry.member})
    known: _Settings = {}
    if accounts:
        for row in await conn.fetch(sql("audited_accounts"), accounts):
            values = {name: value for name, value in row.items() if name != "account"}
            known[row["account"], None] = values | {"metadata": _object(row["metadata"])}
    if members:
        names = zip(*members, strict=True)
        for row in await conn.fetch(sql("audited_members"), *map(list, names)):
            limits = {name: row[name] for name in MEMBER_LIMITS}
            known[row["account"], row["member"]] = limits
    return known


def _row(entry: Entry, known: _Settings) -> audit.Row:
    context = _context(entry)
    actor = _word(context, "actor") or "unknown"
    caller = audit.Caller(
        actor,
        actor.removeprefix(_KEY) if actor.startswith(_KEY) else None,
        _word(context, "address"),
        _word(context, "request_id"),
    )
    if entry.settings is None:
        before, after = _balances(entry)
    else:
        before, after = _changes(entry, known.setdefault((entry.account, entry.member), {}))
    for name in ("reason", "description"):
        if name in context:
            after[name] = context[name]
    member = entry.member if entry.settings is not None else None
    return audit.Row(
        caller,
        _action(entry, after),
        f"account:{entry.account}" if member is None else f"member:{entry.account}/{member}",
        entry.account,
        before or None,
        after | {"version": entry.version},
        _time(entry.at),
    )


def _action(entry: Entry, after: Mapping[str, Any]) -> str:
    if entry.type == "settings" and entry.member is not None:
        return "member.settings"
    if entry.type in ("settings", "freeze") and "status" in after:
        words = {"frozen": "account.freeze", "active": "account.thaw", "closed": "account.close"}
        return words.get(after["status"], "account.settings")
    return f"account.{entry.type}"


def _changes(entry: Entry, now: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the named settings were and are; `now` follows."""
    after = {name: _value(name, text) for name, text in (entry.settings or {}).items()}
    before = {} if entry.type == "open" else {name: now.get(name) for name in after}
    now.update(after)
    return before, after


def _balances(entry: Entry) -> tuple[dict[str, Any], dict[str, Any]]:
    after: dict[str, Any] = {"available": entry.available, "held": entry.held}
    if entry.amount is not None:
        after["amount"] = entry.amount
    for name in ("key", "of"):
        if (word := getattr(entry, name)) is not None:
            after[name] = word
    before = {
        "available": entry.available - movement(entry.delta),
        "held": entry.held - entry.delta.get("held", 0),
    }
    return before, after


def _value(name: str, text: str) -> Any:
    if text == "":
        return None
    if name == "metadata":
        return _object(text)
    return text if name in _TEXTS else int(text) if text.isdecimal() else text


def _object(text: str | None) -> Any:
    try:
        return None if text is None else orjson.loads(text)
    except ValueError:
        return text


def _context(entry: Entry) -> dict[str, Any]:
    context = orjson.loads(raw_bytes(entry.text)).get("context")
    return context if isinstance(context, dict) else {}


def _word(context: Mapping[str, Any], name: str) -> str | None:
    word = context.get(name)
    return word if isinstance(word, str) and word else None


def _time(at_ms: int) -> datetime | None:
    try:
        return _EPOCH + timedelta(milliseconds=at_ms)
    except OverflowError:  # the journal refuses this entry; its row must not be why
        return None
