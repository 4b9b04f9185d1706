"""API keys of callers, made at Postgres itself: the first one cannot come over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.incidents import operator
from holdfast.cli.output import DONE, facts, moment, more, note, show, show_json, table
from holdfast.cli.places import After, Json, Limit, database_configuration, database_pool, run

if TYPE_CHECKING:
    from holdfast.api_keys import ApiKey

key = typer.Typer(help="API keys of callers.", no_args_is_help=True)


@key.command("create")
def create_key(
    name: Annotated[str, typer.Option("--name", help="Whose it is: shown in lists.")],
    *,
    scopes: Annotated[
        str,
        typer.Option("--scopes", help="`all`, or some of read,spend,credit,admin."),
    ],
    accounts: Annotated[
        str | None,
        typer.Option("--accounts", help="Only this account, or those that begin so: `team-*`."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Make an API key. It is shown now, and never again."""
    made, token = run(_create_key(name, scopes, accounts))
    if as_json:
        show_json({"id": made.id, "key": token, **_described(made)})
        return DONE
    show(token)
    note(f"this is key {made.id}; nobody can show it again")
    return DONE


async def _create_key(name: str, scopes: str, accounts: str | None) -> tuple[ApiKey, str]:
    from holdfast import api_keys  # noqa: PLC0415
    from holdfast.audit import Caller  # noqa: PLC0415

    wanted = api_keys.SCOPES if scopes == "all" else scopes.replace(" ", "").split(",")
    async with database_pool(database_configuration()) as pool:
        by = Caller(operator(None))
        return await api_keys.create(pool, name, wanted, accounts, by=by)


@key.command("list")
def list_keys(after: After = None, limit: Limit = 100, as_json: Json = False) -> int:
    """All API keys, without their secrets; revoked ones too."""

    async def work() -> list[ApiKey]:
        from holdfast import api_keys  # noqa: PLC0415

        async with database_pool(database_configuration()) as pool:
            return await api_keys.page(pool, after or "", limit + 1)

    keys = run(work())
    cursor = keys[limit - 1].id if len(keys) > limit else None
    if as_json:
        data = [{"id": each.id, **_described(each)} for each in keys[:limit]]
        show_json({"data": data, "next": cursor})
        return DONE
    rows = [
        (
            *(each.id, each.name, ", ".join(sorted(each.scopes)), each.accounts or "all"),
            *(moment(each.created_at), moment(each.revoked_at)),
        )
        for each in keys[:limit]
    ]
    columns = ("id", "name", "scopes", "accounts", "made", "revoked")
    show(table(columns, rows, folds={"name", "scopes", "accounts"}))
    more(cursor)
    return DONE


@key.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, not its secret.")],
    *,
    as_json: Json = False,
) -> int:
    """End a key for good; every process refuses it within a minute."""

    async def work() -> ApiKey:
        from holdfast import api_keys  # noqa: PLC0415
        from holdfast.audit import Caller  # noqa: PLC0415

        async with database_pool(database_configuration()) as pool:
            return await api_keys.revoke(pool, key_id, by=Caller(operator(None)))

    revoked = run(work())
    if as_json:
        show_json({"id": revoked.id, **_described(revoked)})
    else:
        show(
            facts({"key": revoked.id, "name": revoked.name, "revoked": moment(revoked.revoked_at)})
        )
    return DONE


def _described(made: ApiKey) -> dict[str, Any]:
    return {
        "name": made.name,
        "scopes": sorted(made.scopes),
        "accounts": made.accounts,
        "created_at": made.created_at,
        "revoked_at": made.revoked_at,
    }
