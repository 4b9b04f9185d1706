"""`holdfast audit`: who changed what, read at Postgres itself."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.arguments import parse_moment
from holdfast.cli.output import DONE, moment, more, show, show_json, table
from holdfast.cli.places import After, Json, Limit, database_configuration, database_pool, run

if TYPE_CHECKING:
    from holdfast.audit_list import AuditRow
    from holdfast.lists import Page


def audit(
    *,
    account: Annotated[
        str | None, typer.Option("--account", help="Only what was done to this account.")
    ] = None,
    actor: Annotated[
        str | None, typer.Option("--actor", help="Only what this actor did: key:…, cli:…, worker.")
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option("--since", parser=parse_moment, metavar="TIME", help="Nothing older."),
    ] = None,
    after: After = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> int:
    """What admins and holdfast itself changed, newest first. Nobody can change it."""

    async def work() -> Page[AuditRow]:
        from holdfast.audit_list import audit_page  # noqa: PLC0415

        async with database_pool(database_configuration()) as pool:
            return await audit_page(
                pool, account=account, actor=actor, since=since, after=after, limit=limit
            )

    page = run(work())
    if as_json:
        data = [asdict(row) | {"at": row.at} for row in page.data]
        for row in data:
            del row["at_us"]
        show_json({"data": data, "next": page.next})
        return DONE
    rows = [(moment(r.at), r.actor, r.action, r.subject, r.address, _change(r)) for r in page.data]
    columns = ("at", "actor", "action", "subject", "from", "change")
    show(table(columns, rows, folds={"actor", "subject", "change"}))
    more(page.next)
    return DONE


def _change(row: AuditRow) -> str:
    """What was changed, name by name: `daily_limit: 5 → 7`."""
    before, after = row.before or {}, row.after or {}
    return ", ".join(
        f"{name}: {_word(before.get(name))} → {_word(after[name])}"
        if name in before and name in after
        else f"{name}: {_word(after.get(name, before.get(name)))}"
        for name in {**before, **after}
    )


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
