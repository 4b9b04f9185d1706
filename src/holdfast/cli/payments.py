"""Money coming in, read at Postgres itself: what payment providers told, and what is owed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import typer

from holdfast.cli.incidents import Before, By, Number, operator
from holdfast.cli.output import DONE, USAGE, Failure, moment, more, refused, show, show_json, table
from holdfast.cli.places import After, Json, Limit, database, database_configuration, run

payment = typer.Typer(
    help="What payment providers told, and what became of it.", no_args_is_help=True
)
outbox = typer.Typer(
    help="What Postgres owes to accounts, until the journal has it.", no_args_is_help=True
)

EventState = Annotated[
    Literal["received", "applied", "review", "ignored"] | None,
    typer.Option("--state", help="Only events in this state."),
]
RowState = Annotated[
    Literal["pending", "applied", "failed"] | None,
    typer.Option("--state", help="Only rows in this state."),
]


# ── payment ──────────────────────────────────────────────────────────────────────────────────────


def _cursor(text: str | None) -> tuple[datetime, str] | None:
    if text is None:
        return None
    at, _, name = text.partition(" ")
    try:
        return datetime.fromisoformat(at), name
    except ValueError:
        raise Failure("--after takes the `next` of the page before", USAGE) from None


@payment.command("list")
def list_payments(
    *, state: EventState = None, after: After = None, limit: Limit = 100, as_json: Json = False
) -> int:
    """Events of payment providers, newest first."""
    before = _cursor(after)

    async def work() -> list[dict[str, Any]]:
        from holdfast.payments import listing  # noqa: PLC0415

        async with database(database_configuration()) as conn:
            return await listing(conn, state=state, before=before, limit=limit + 1)

    rows = run(work())
    data = rows[:limit]
    cursor = None
    if len(rows) > limit:
        cursor = f"{data[-1]['created_at'].isoformat()} {data[-1]['id']}"
    if as_json:
        show_json({"data": data, "next": cursor})
        return DONE
    columns = ("event", "at", "type", "payment", "account", "state", "why")
    cells = [
        (
            *(f"{row['provider']}:{row['id']}", moment(row["created_at"]), row["type"]),
            *(row["payment"], row["account"], row["state"], row["error"]),
        )
        for row in data
    ]
    show(table(columns, cells, folds={"payment", "account", "why"}))
    more(cursor)
    return DONE


@payment.command("retry")
def retry_payment(
    event: Annotated[str, typer.Argument(metavar="PROVIDER:EVENT")],
    *,
    by: By = None,
    as_json: Json = False,
) -> int:
    """Act again upon an event that was for review, when its reason is mended."""
    provider, _, name = event.partition(":")

    async def work() -> Any:
        from holdfast.audit import Caller  # noqa: PLC0415
        from holdfast.payments import retry  # noqa: PLC0415

        async with database(database_configuration()) as conn, conn.transaction():
            return await retry(conn, provider, name, Caller(operator(by)))

    taken = run(work())
    if taken is None:
        raise refused(f"there is no event {event} for review")
    if as_json:
        show_json({"event": event, "state": taken.state, "error": taken.error})
    else:
        show(f"event {event} is {taken.state}" + (f": {taken.error}" if taken.error else ""))
    return DONE


# ── outbox ───────────────────────────────────────────────────────────────────────────────────────


@outbox.command("list")
def list_outbox(
    *, state: RowState = None, after: Before = None, limit: Limit = 100, as_json: Json = False
) -> int:
    """What is or was owed to accounts, newest first."""

    async def work() -> list[dict[str, Any]]:
        from settlement.outbox import listing  # noqa: PLC0415

        async with database(database_configuration()) as conn:
            return await listing(conn, state=state, before=after, limit=limit + 1)

    rows = run(work())
    data = rows[:limit]
    cursor = data[-1]["id"] if len(rows) > limit else None
    if as_json:
        show_json({"data": data, "next": cursor})
        return DONE
    columns = ("id", "at", "account", "amount", "for", "state", "why")
    cells = [
        (
            *(row["id"], moment(row["created_at"]), row["account"], row["amount"]),
            *(row["origin"], row["state"], row["error"]),
        )
        for row in data
    ]
    show(table(columns, cells, numbers={"id", "amount"}, folds={"account", "for", "why"}))
    more(cursor)
    return DONE


@outbox.command("retry")
def retry_outbox(number: Number, *, by: By = None, as_json: Json = False) -> int:
    """Try a row again that had failed, when its reason is mended."""

    async def work() -> str | None:
        from holdfast import audit  # noqa: PLC0415
        from settlement.outbox import retry  # noqa: PLC0415

        async with database(database_configuration()) as conn, conn.transaction():
            account = await retry(conn, number)
            if account is not None:
                await audit.record(
                    conn,
                    actor=operator(by),
                    action="outbox.retry",
                    subject=f"outbox:{number}",
                    account=account,
                )
            return account

    account = run(work())
    if account is None:
        raise refused(f"no row {number} of the outbox has failed")
    if as_json:
        show_json({"id": number, "account": account, "state": "pending"})
    else:
        show(f"row {number} is tried again")
    return DONE
