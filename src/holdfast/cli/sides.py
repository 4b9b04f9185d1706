"""How an inspection is shown: both stores side by side, and what it means in the last lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from holdfast.cli.output import credits, duration, facts, plain, size, table
from holdfast.keys import ShardKeys

if TYPE_CHECKING:
    from holdfast.inspection import Inspection
    from holdfast.standing import Line

_MARKS: Final = {"same": "", "unsettled": "…", "differs": "≠"}
_STYLES: Final = {"same": "", "unsettled": "yellow", "differs": "bold red"}
_AMOUNT = re.compile(r"\b(amount|remaining|committed|refunded|uncollected) (\d+)")


def inspection_as_text(found: Inspection) -> Iterator[RenderableType]:
    """The inspection for people, part by part."""
    row = found.row
    proof = "never" if row["proof_at"] is None else f"{row['proof_at']:%H:%M:%S} UTC"
    leases = [
        f"{name} {duration(left / 1000) if left else 'none'}" for name, left in found.leases.items()
    ]
    yield facts(
        {
            "account": found.account,
            "shard": f"{found.shard} on redis {found.node}, {row['state']}",
            "generation": f"{found.meta.get('generation', 'none')} in Redis,"
            f" {row['generation']} in Postgres",
            "last entry": f"{found.meta.get('seq', '0')} in Redis, {row['mark']} in the journal",
            "leases": ", ".join(leases) + f"; last proof of life {proof}",
        }
    )
    yield ""
    yield _sides(found.lines)
    if found.keys:
        yield ""
        yield _keys(found)
    entries = [*found.entries, *({**each, "settled_ms": None} for each in found.unsettled)]
    if entries:
        yield ""
        yield _entries(entries)
    yield ""
    yield from _verdict(found)


def _sides(lines: list[Line]) -> Table:
    rows = []
    for line in lines:
        style = _STYLES[line.verdict]
        sides = (_value(line, line.redis), _value(line, line.postgres))
        rows.append([Text(cell, style) for cell in (_MARKS[line.verdict], line.name, *sides)])
    return table(("", "value", "Redis", "Postgres"), rows, folds={"value", "Redis", "Postgres"})


def _value(line: Line, text: str | None) -> str:
    """One value as people write it. What does not read as it should is shown as it is."""
    if not text:
        return ""
    try:
        if line.kind == "amount":
            return credits(int(text))
        if line.kind == "time":
            return _time(int(text))
        words = text.split()
        if line.kind == "grant":
            return f"{credits(int(words[2]))} until {_time(int(words[0]))}, priority {words[1]}"
        if line.kind == "limits":
            names = ("a day", "a month", "a hold")
            pairs = zip(words, names, strict=True)
            return ", ".join(f"{credits(int(w))} {n}" for w, n in pairs if w != "-") or "none"
        if line.kind == "use":
            return f"{credits(int(words[0]))} today, {credits(int(words[1]))} this month"
    except (ValueError, IndexError):
        return plain(text)
    if line.kind == "record":
        text = _AMOUNT.sub(lambda match: f"{match[1]} {credits(int(match[2]))}", text)
    return plain(text)


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _keys(found: Inspection) -> Table:
    family = ShardKeys(found.prefix, found.shard).family.decode()
    rows = [
        (
            *(key.name.removeprefix(family), key.type, key.encoding, size(key.memory)),
            "stays" if key.ttl_ms is None else duration(key.ttl_ms / 1000),
        )
        for key in found.keys
    ]
    columns = (f"key {family}…", "type", "encoding", "size", "ends in")
    return table(columns, rows, numbers={"size", "ends in"}, folds={columns[0]})


def _entries(entries: list[dict[str, Any]]) -> Table:
    rows = [
        (
            *(str(each["seq"]), str(each["version"]), each["type"], each["hold"] or each["key"]),
            *(credits(each["amount"]), credits(each["available"]), credits(each["held"])),
            "settled" if each["settled_ms"] is not None else Text("waits", "yellow"),
        )
        for each in entries
    ]
    columns = ("seq", "v", "entry", "key", "amount", "available", "held", "")
    numbers = {"seq", "v", "amount", "available", "held"}
    return table(columns, rows, numbers=numbers, folds={"key"})


def _verdict(found: Inspection) -> Iterator[RenderableType]:
    for sentence in found.findings:
        yield Text(f"• {plain(sentence)}")
    style = "bold red" if found.differs else "yellow" if found.unsettled else "green"
    yield Text(found.summary, style)
