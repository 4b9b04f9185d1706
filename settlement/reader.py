"""Verifies what a shard's stream answered before anybody believes it: pure, no store is touched.

Entries must be numbered from the mark on without a gap, and each must carry the chain: SHA-1 of the
previous chain followed by its own text. What stands before the first fault is valid and can be
settled; the fault itself is for vetting. An entry that links but cannot be read is not a fault of
the stream: it keeps its number, and the journal will hold it raw (`Entry.error`).
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any, Final, Literal

import orjson

CARRIED: Final = ("base", "debt", "held", "granted", "refunded", "spent", "forfeited")
"""What of an account an entry's `delta` may change (lua/lib/account.lua)."""

# A text in the journal that stands for bytes which are no text. No entry begins like that.
_RAW: Final = "base64:"
_ACCOUNT: Final = re.compile(rb'"account":"([A-Za-z0-9_.:-]{1,128})"')
_ACCOUNT_WITHIN: Final = 256  # type and account come first: 13 + 12 + 128 bytes and change


@dataclass(slots=True)
class Entry:
    """One transition, as the stream has it. Amounts in microcredits, `at` in ms since 1970.

    Where `error` is set, only seq, chain, text and error can be relied on; `account` is what the
    text says, or ''.
    """

    seq: int
    chain: str
    text: str
    """The exact text that the chain was computed over; `raw_bytes` gives its bytes."""
    type: str = ""
    account: str = ""
    version: int = 0
    at: int = 0
    amount: int | None = None
    available: int = 0
    held: int = 0
    delta: dict[str, int] = field(default_factory=dict)
    grants: dict[str, str] | None = None
    hold: str | None = None
    key: str | None = None
    member: str | None = None
    opened: int | None = None
    record: dict[str, str] | None = None
    of: str | None = None
    of_opened: int | None = None
    of_record: dict[str, str] | None = None
    day: int | None = None
    used: int = 0
    settings: dict[str, str] | None = None
    model: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Break:
    """The first fault of a stream: what was expected at `seq`, and what was there."""

    kind: Literal["gap", "chain", "shape"]
    seq: int
    detail: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What a stream answered: its valid prefix, and the fault behind it, if any."""

    entries: list[Entry]
    broken: Break | None = None


def verify(after: int, chain: str, found: list[Any], *, seq: int, limit: int) -> Reading:
    """Check what the script `entries` answered for entries after `after`, whose chain is `chain`.

    `seq` is the shard's last number as the same script saw it, `limit` what it was asked for: fewer
    entries than both allow are a gap at the end.
    """
    entries: list[Entry] = []
    number = after
    for item in found:
        number += 1
        try:
            entry_id, (name, raw, other, claimed) = item
        except (TypeError, ValueError):
            return Reading(
                entries, Break("shape", number, f"a stream entry of a shape unknown: {item!r:.200}")
            )
        if entry_id != b"%d-0" % number:
            was = entry_id.decode(errors="replace")
            return Reading(
                entries, Break("gap", number, f"entry {number} is missing, {was} follows")
            )
        if name != b"entry" or other != b"chain":
            return Reading(entries, Break("shape", number, f"entry {number} has other fields"))
        linked = sha1(chain.encode() + raw, usedforsecurity=False).hexdigest()
        if linked.encode() != claimed:
            detail = f"entry {number} does not continue the chain {chain or '(empty)'}"
            return Reading(entries, Break("chain", number, detail))
        chain = linked
        entries.append(read_entry(number, chain, raw))
    if number < seq and len(found) < limit:
        detail = f"entries {number + 1} to {seq} are missing at the end"
        return Reading(entries, Break("gap", number + 1, detail))
    return Reading(entries)


def read_entry(seq: int, chain: str, raw: bytes) -> Entry:
    """Parse one entry. Never raises: what cannot be read has `error`."""
    try:
        doc = orjson.loads(raw)
        get = doc.get
        delta = {name: int(text) for name, text in (_pairs(get("delta")) or {}).items()}
        entry = Entry(
            int(doc["seq"]),
            chain,
            raw.decode(),
            doc["type"],
            doc["account"],
            int(doc["version"]),
            int(doc["at"]),
            _optional(get("amount")),
            int(doc["available"]),
            int(doc["held"]),
            delta,
            _pairs(get("grants")),
            get("hold"),
            get("key"),
            get("member"),
            _optional(get("opened")),
            _pairs(get("record")),
            get("of"),
            _optional(get("of_opened")),
            _pairs(get("of_record")),
            _optional(get("day")),
            int(get("used", 0)),
            _pairs(get("settings")),
            _model(get("model")),
        )
        if entry.seq != seq:
            raise ValueError(f"it says that it is number {entry.seq}")
        if not delta.keys() <= _CARRIED_SET:
            raise ValueError(f"its delta names {sorted(delta.keys() - _CARRIED_SET)}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return _unreadable(seq, chain, raw, error)
    return entry


_CARRIED_SET: Final = frozenset(CARRIED)


def _pairs(flat: list[str] | None) -> dict[str, str] | None:
    """Names and values in turn, as the scripts write them, as a map."""
    if flat is None:
        return None
    if type(flat) is not list or len(flat) % 2:
        raise ValueError("its maps are not names and values in turn")
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _optional(text: str | None) -> int | None:
    return None if text is None else int(text)


def _model(model: object) -> str:
    """The model that a hold or charge is for, where it names one; usage is grouped by it."""
    return model[:128] if isinstance(model, str) else ""


def _unreadable(seq: int, chain: str, raw: bytes, error: Exception) -> Entry:
    named = _ACCOUNT.search(raw, 0, _ACCOUNT_WITHIN)
    why = f"missing: {error}" if isinstance(error, KeyError) else str(error)
    return Entry(
        seq,
        chain,
        raw_text(raw),
        type="unreadable",
        account=named[1].decode() if named else "",
        error=f"unreadable: {why}",
    )


def raw_text(raw: bytes) -> str:
    """The bytes of an entry as a text that Postgres takes: base64 where they are no text."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return _RAW + b64encode(raw).decode()
    return _RAW + b64encode(raw).decode() if "\0" in text else text


def raw_bytes(text: str) -> bytes:
    """The bytes of an entry as Redis had them; the chain is computed over these."""
    return b64decode(text[len(_RAW) :]) if text.startswith(_RAW) else text.encode()
