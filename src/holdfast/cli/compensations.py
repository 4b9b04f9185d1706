"""What accounts are owed for failed work, at the stores themselves: also while no API runs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from holdfast.cli.arguments import AccountId, Amount
from holdfast.cli.incidents import By, operator
from holdfast.cli.output import DONE, credits, facts, moment, more, note, show, show_json, table
from holdfast.cli.places import (
    After,
    Json,
    Limit,
    database_configuration,
    database_pool,
    run,
    store_configuration,
)

if TYPE_CHECKING:
    from holdfast.compensations import Compensation
    from holdfast.compensator import Tally
    from holdfast.lists import Page

compensation = typer.Typer(help="Credits owed for work that failed.", no_args_is_help=True)


@compensation.command("add")
def add_compensation(
    account: AccountId,
    amount: Amount,
    *,
    origin: Annotated[
        str, typer.Option("--origin", help="What failed: it is compensated once, ever.")
    ],
    reason: Annotated[str, typer.Option("--reason", help="Kept with the entry.")],
    of: Annotated[
        str | None,
        typer.Option("--of", help="The hold or charge to refund. [grant the amount]"),
    ] = None,
    by: By = None,
    as_json: Json = False,
) -> int:
    """Owe an account credits; a worker gives them within a second or so."""

    async def work() -> tuple[Compensation, bool]:
        from holdfast import compensations  # noqa: PLC0415
        from holdfast.audit import Caller  # noqa: PLC0415

        async with database_pool(database_configuration()) as pool:
            return await compensations.add(
                pool,
                account=account,
                origin=origin,
                of=of,
                amount=amount,
                reason=reason,
                by=Caller(operator(by)),
            )

    owed, new = run(work())
    if not new and not as_json:
        note("nothing new: this origin was compensated before")
    return _show(owed, as_json)


@compensation.command("list")
def list_compensations(
    account: Annotated[str | None, typer.Argument(metavar="ACCOUNT")] = None,
    *,
    state: Annotated[
        Literal["pending", "applied", "failed"] | None, typer.Option("--state")
    ] = None,
    after: After = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> int:
    """Compensations, oldest first."""

    async def work() -> Page[Compensation]:
        from holdfast import compensations  # noqa: PLC0415

        async with database_pool(database_configuration()) as pool:
            return await compensations.page(
                pool, state=state, account=account, after=after, limit=limit
            )

    page = run(work())
    if as_json:
        show_json({"data": [_described(each) for each in page.data], "next": page.next})
        return DONE
    columns = ("id", "account", "origin", "of", "amount", "state", "tries", "next try", "error")
    rows = [
        (
            *(each.id, each.account, each.origin, each.of, credits(each.amount), each.state),
            *(each.attempts, _next_try(each), each.error),
        )
        for each in page.data
    ]
    folds = {"account", "origin", "of", "error"}
    show(table(columns, rows, numbers={"id", "amount", "tries"}, folds=folds))
    more(page.next)
    return DONE


@compensation.command("retry")
def retry_compensation(
    number: Annotated[int, typer.Argument(metavar="ID", min=1)],
    *,
    by: By = None,
    as_json: Json = False,
) -> int:
    """Have one that failed tried anew, at once; one that waits as well."""

    async def work() -> Compensation:
        from holdfast import compensations  # noqa: PLC0415
        from holdfast.audit import Caller  # noqa: PLC0415

        async with database_pool(database_configuration()) as pool:
            return await compensations.retry(pool, str(number), by=Caller(operator(by)))

    return _show(run(work()), as_json)


@compensation.command("run")
def run_compensations(*, as_json: Json = False) -> int:
    """Try what is pending now, due or not, each once: at most 100, for some five seconds."""

    async def work() -> Tally:
        from holdfast.compensator import Compensator  # noqa: PLC0415
        from holdfast.ledger import open_ledger  # noqa: PLC0415

        config = store_configuration()
        async with database_pool(config) as pool:
            ledger = await open_ledger(config)
            try:
                return await Compensator(pool, ledger).run()
            finally:
                await ledger.close()

    tally = run(work())
    if as_json:
        show_json(asdict(tally))
    else:
        show(facts(asdict(tally)))
    return DONE


def _show(owed: Compensation, as_json: bool) -> int:
    described = _described(owed)
    if as_json:
        show_json(described)
        return DONE
    described |= {"amount": credits(owed.amount), "next_try_at": _next_try(owed)}
    described |= {name: moment(getattr(owed, name)) for name in ("created_at", "applied_at")}
    show(facts({name.replace("_", " "): value for name, value in described.items()}))
    return DONE


def _next_try(owed: Compensation) -> str:
    return moment(owed.next_try_at) if owed.state == "pending" else ""


def _described(owed: Compensation) -> dict[str, Any]:
    described = asdict(owed)
    del described["claimed_until"]
    if owed.state != "pending":
        described["next_try_at"] = None
    return described
