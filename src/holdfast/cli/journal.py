"""`holdfast journal`: what the journal took last, and what it takes now."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from holdfast.cli.output import (
    DONE,
    USAGE,
    Failure,
    console,
    credits,
    plain,
    show,
    show_json,
    show_json_line,
    table,
)
from holdfast.cli.places import Json, Limit, database, database_configuration, run

if TYPE_CHECKING:
    from holdfast.config import Config

journal = typer.Typer(help="The durable record of every transition.", no_args_is_help=True)

# Entries of a shard in one look; a shard that gets more than this between two is behind for a look.
_PAGE: Final = 1000
# NOTIFY tells when something settled. Should one get lost, this is how late an entry shows.
_LOOK_S: Final = 1.0
_COLUMNS: Final = ("at", "shard/seq", "account", "v", "type", "amount", "available", "held", "key")
_WIDE: Final = 110
_WIDE_ONLY: Final = frozenset({"shard/seq", "held"})


@journal.callback()
def _journal() -> None:
    pass


@journal.command("tail")
def tail(
    account: Annotated[str | None, typer.Argument(metavar="ACCOUNT")] = None,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C; JSON: one entry a line.")
    ] = False,
    limit: Limit = 20,
    shard: Annotated[
        int | None, typer.Option("--shard", min=0, max=999, help="Of one shard alone.")
    ] = None,
    as_json: Json = False,
) -> int:
    """The last entries, oldest first: of an account, of a shard, or of all."""
    if account is not None and shard is not None:
        raise Failure("name an account or a shard, not both", USAGE)
    run(_tail(database_configuration(), account, shard, limit, follow=follow, as_json=as_json))
    return DONE


async def _tail(
    config: Config,
    account: str | None,
    shard: int | None,
    limit: int,
    *,
    follow: bool,
    as_json: bool,
) -> None:
    from holdfast.queries import sql  # noqa: PLC0415

    async with database(config) as conn:
        marks = {row["id"]: row["mark"] for row in await conn.fetch(sql("tail_marks"), shard)}
        rows = await conn.fetch(sql("tail_last"), shard, account, limit)
        entries = [_entry(row) for row in reversed(rows)]
        if not follow:
            _show(entries, as_json)
            return
        for entry in entries:
            _show_one(entry, as_json)
            number = entry["shard"]
            marks[number] = max(marks.get(number, 0), entry["seq"])
        async for entry in _follow(conn, account, shard, marks):
            _show_one(entry, as_json)


async def _follow(
    conn: Any, account: str | None, shard: int | None, seen: dict[int, int]
) -> AsyncIterator[dict[str, Any]]:
    """Entries behind those that were seen, as they settle, for ever."""
    from holdfast.durability import CHANNEL  # noqa: PLC0415
    from holdfast.queries import sql  # noqa: PLC0415

    hint = asyncio.Event()
    await conn.add_listener(CHANNEL, lambda *_: hint.set())
    while True:
        hint.clear()
        marks = {row["id"]: row["mark"] for row in await conn.fetch(sql("tail_marks"), shard)}
        behind = [number for number, mark in marks.items() if mark > seen.get(number, 0)]
        if behind:
            asked = [seen.get(number, 0) for number in behind]
            until = [min(marks[number], seen.get(number, 0) + _PAGE) for number in behind]
            for row in await conn.fetch(sql("tail_new"), behind, asked, account, _PAGE, until):
                yield _entry(row)
            seen.update(zip(behind, until, strict=True))
            if any(marks[number] > seen[number] for number in behind):
                continue
        try:
            await asyncio.wait_for(hint.wait(), _LOOK_S)
        except TimeoutError:
            continue


def _entry(row: Any) -> dict[str, Any]:
    """A row of the journal for people and programs: with who asked, from the entry itself."""
    entry = dict(row)
    try:
        context = json.loads(entry.pop("entry")).get("context") or {}
    except (ValueError, AttributeError):
        context = {}  # a quarantined entry may be no JSON at all
    return entry | {name: context.get(name) for name in ("request_id", "actor", "description")}


def _show(entries: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        show_json({"data": entries})
        return
    # What a narrow screen has no room for, `account show` and the JSON tell.
    names = _COLUMNS if console().width >= _WIDE else [n for n in _COLUMNS if n not in _WIDE_ONLY]
    rows = []
    for entry in entries:
        cells = dict(zip(_COLUMNS, _cells(entry), strict=True))
        rows.append([cells[name] for name in names])
    show(table(names, rows, numbers={"v", "amount", "available", "held"}, folds={"account", "key"}))


def _cells(entry: dict[str, Any]) -> tuple[str, ...]:
    at = entry["at"]
    today = at.date() == datetime.now(UTC).date()
    kind = f"{entry['type']} (quarantined)" if entry["quarantined"] else entry["type"]
    return (
        f"{at:%H:%M:%S}" if today else f"{at:%m-%d %H:%M}",
        f"{entry['shard']}/{entry['seq']}",
        entry["account"],
        str(entry["version"] or ""),
        kind,
        credits(entry["amount"]),
        credits(entry["available"]),
        credits(entry["held"]),
        entry["hold"] or entry["key"] or "",
    )


def _show_one(entry: dict[str, Any], as_json: bool) -> None:
    """An entry on a line of its own: a table that goes on has no width to fit into."""
    if as_json:
        show_json_line(entry)
        return
    at, place, account, version, kind, amount, available, held, key = map(plain, _cells(entry))
    words = [f"{at}  {place:<10}  {account} v{version}  {kind}", amount, key]
    typer.echo("  ".join(w for w in words if w) + f"  → available {available}, held {held}")
