"""What waits for an operator: incidents, and entries in quarantine."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.output import (
    DONE,
    USAGE,
    Failure,
    confirm,
    facts,
    moment,
    more,
    note,
    plain,
    refused,
    show,
    show_json,
    table,
)
from holdfast.cli.places import Json, Limit, Yes, database, database_configuration, run, store_pool

incident = typer.Typer(
    help="Incidents: what the stores did that they must not do.", no_args_is_help=True
)
quarantine = typer.Typer(
    help="Entries that Postgres rejected, and what a rebuild kept.", no_args_is_help=True
)

Number = Annotated[int, typer.Argument(metavar="ID", min=1)]
OnlyOpen = Annotated[bool, typer.Option("--open", help="Only those that nobody has dealt with.")]
Before = Annotated[
    int | None, typer.Option("--after", min=1, help="Go on where a list ended: its `next`.")
]
By = Annotated[
    str | None, typer.Option("--by", help="Who decides, for the record. [your login name]")
]


def operator(by: str | None) -> str:
    """Who an audit names: whom the caller says, or the login name of this process."""
    if by is None:
        try:
            by = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:  # a container's number without a name
            by = str(os.geteuid())
    return f"cli:{by}"


def _page(rows: list[dict[str, Any]], limit: int, as_json: bool, columns: dict[str, Any]) -> int:
    """A list, newest first, of which one row more than `limit` was asked for."""
    data = rows[:limit]
    cursor = data[-1]["id"] if len(rows) > limit else None
    if as_json:
        show_json({"data": data, "next": cursor})
        return DONE
    cells = [[read(row) for read in columns.values()] for row in data]
    folds = {"what happened", "account", "why"}
    show(table(list(columns), cells, numbers={"id"}, folds=folds))
    more(cursor)
    return DONE


# ── incident ─────────────────────────────────────────────────────────────────────────────────────


@incident.command("list")
def list_incidents(
    *,
    only_open: OnlyOpen = False,
    after: Before = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> int:
    """Incidents, newest first."""

    async def work() -> list[dict[str, Any]]:
        from settlement.incidents import listing  # noqa: PLC0415

        async with database(database_configuration()) as conn:
            return await listing(conn, only_open=only_open, before=after, limit=limit + 1)

    columns = {
        "id": lambda row: row["id"],
        "at": lambda row: moment(row["at"]),
        "kind": lambda row: row["kind"],
        "what happened": lambda row: row["summary"],
        "closed": lambda row: moment(row["closed_at"]) or "open",
    }
    return _page(run(work()), limit, as_json, columns)


@incident.command("show")
def show_incident(number: Number, *, as_json: Json = False) -> int:
    """One incident, with its numbers."""
    found = run(_find_incident(number))
    if as_json:
        show_json(found)
        return DONE
    from settlement.incidents import KINDS  # noqa: PLC0415

    pairs = {
        "incident": found["id"],
        "at": moment(found["at"]),
        "kind": f"{found['kind']}: {KINDS.get(found['kind'], 'unknown to this release')}",
        "what happened": found["summary"],
        "shard": found["shard"],
        "account": found["account"],
        "closed": f"{moment(found['closed_at'])} by {found['closed_by']}"
        if found["closed_at"]
        else "open",
    }
    details = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in found["details"].items()
    }
    show(facts(pairs), "", facts(details))
    return DONE


async def _find_incident(number: int) -> dict[str, Any]:
    from settlement.incidents import listing  # noqa: PLC0415

    async with database(database_configuration()) as conn:
        found = await listing(conn, before=number + 1, limit=1)
    if not found or found[0]["id"] != number:
        raise refused(f"there is no incident {number}")
    return found[0]


@incident.command("close")
def close_incident(number: Number, *, by: By = None, as_json: Json = False) -> int:
    """Say that an incident was dealt with."""

    async def work() -> bool:
        from settlement.incidents import close  # noqa: PLC0415

        async with database(database_configuration()) as conn:
            return await close(conn, number, operator(by))

    if not run(work()):
        raise refused(f"there is no open incident {number}")
    if as_json:
        show_json(run(_find_incident(number)))
    else:
        show(f"incident {number} is closed")
    return DONE


# ── quarantine ───────────────────────────────────────────────────────────────────────────────────


@quarantine.command("list")
def list_quarantine(
    account: Annotated[str | None, typer.Argument(metavar="ACCOUNT")] = None,
    *,
    only_open: OnlyOpen = False,
    after: Before = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> int:
    """Entries in quarantine, newest first."""

    async def work() -> list[dict[str, Any]]:
        from settlement.quarantine import listing  # noqa: PLC0415

        async with database(database_configuration()) as conn:
            return await listing(
                conn, account=account, only_open=only_open, before=after, limit=limit + 1
            )

    columns = {
        "id": lambda row: row["id"],
        "at": lambda row: moment(row["at"]),
        "shard/seq": lambda row: f"{row['shard']}/{row['seq']}",
        "account": lambda row: row["account"],
        "origin": lambda row: row["origin"],
        "state": lambda row: row["state"],
        "why": lambda row: row["error"],
    }
    return _page(run(work()), limit, as_json, columns)


@quarantine.command("show")
def show_quarantined(number: Number, *, as_json: Json = False) -> int:
    """One entry: as Redis wrote it, as it is read now, and why it was rejected."""
    found = run(_find_quarantined(number))
    if as_json:
        show_json(found)
        return DONE
    ended = f"{moment(found['ended_at'])} by {found['ended_by']}" if found["ended_at"] else ""
    show(
        facts(
            {
                "entry": f"{found['shard']}/{found['seq']} of generation {found['generation']}",
                "account": found["account"] or "unknown",
                "origin": found["origin"],
                "since": moment(found["at"]),
                "why": found["error"],
                "state": f"{found['state']} {ended}".strip(),
                "frozen in Redis": "yes" if found["frozen"] else "not yet",
                "correction": json.dumps(found["correction"]) if found["correction"] else "",
                "as written": found["entry"],
                "read instead": found["mended"],
            }
        )
    )
    return DONE


async def _find_quarantined(number: int) -> dict[str, Any]:
    from settlement.quarantine import listing  # noqa: PLC0415

    async with database(database_configuration()) as conn:
        found = await listing(conn, before=number + 1, limit=1)
    if not found or found[0]["id"] != number:
        raise refused(f"there is no entry {number} in quarantine")
    return found[0]


@quarantine.command("mend")
def mend(
    number: Number,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The entry to read; - is stdin.")],
    *,
    by: By = None,
    as_json: Json = False,
) -> int:
    """Give another text for an entry. The journal keeps what Redis wrote."""
    try:
        text = typer.get_text_stream("stdin").read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{file}: {error}", USAGE) from None

    async def work() -> None:
        from settlement.quarantine import mend  # noqa: PLC0415

        async with store_pool(database_configuration()) as pool:
            await mend(pool, number, text.strip(), operator(by))

    _end(work())
    return show_quarantined(number, as_json=as_json)


@quarantine.command("apply")
def apply(number: Number, *, yes: Yes = False, by: By = None, as_json: Json = False) -> int:
    """Take all that the account of this entry has waiting, as it is read."""
    found = run(_find_quarantined(number))
    if not yes:
        question = f"Apply all that waits for account {plain(found['account']) or 'unknown'}?"
        confirm(question)

    async def work() -> int:
        from settlement.quarantine import apply  # noqa: PLC0415

        async with store_pool(database_configuration()) as pool:
            return await apply(pool, number, operator(by))

    return _ended(_end(work()), found["account"], as_json)


@quarantine.command("void")
def void(
    numbers: Annotated[list[int], typer.Argument(metavar="ID", min=1)],
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept for the record.")],
    yes: Yes = False,
    by: By = None,
    as_json: Json = False,
) -> int:
    """Do not believe the amounts of these entries; book what is then missing as a correction.

    All of one account. Whatever else waits for it is applied.
    """
    found = run(_find_quarantined(numbers[0]))
    if not yes:
        some = ", ".join(map(str, numbers))
        question = f"Void {some} of account {plain(found['account']) or 'unknown'}, apply the rest?"
        confirm(question)

    async def work() -> int:
        from settlement.quarantine import void  # noqa: PLC0415

        async with store_pool(database_configuration()) as pool:
            return await void(pool, numbers, reason, operator(by))

    return _ended(_end(work()), found["account"], as_json)


def _end(work: Any) -> Any:
    from settlement.quarantine import QuarantineError  # noqa: PLC0415

    try:
        return run(work)
    except QuarantineError as error:
        raise refused(str(error)) from None


def _ended(count: int, account: str, as_json: bool) -> int:
    if as_json:
        show_json({"account": account, "entries": count})
    else:
        show(f"{count} entries ended")
        if account:
            note(f"{account} stays frozen: `holdfast reconcile {account}`, then `account thaw`")
    return DONE
