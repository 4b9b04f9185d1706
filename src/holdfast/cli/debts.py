"""Commands over HTTP about what is owed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from holdfast.cli.arguments import AccountId, Key, amount_option
from holdfast.cli.holds import show_posting
from holdfast.cli.output import credits, moment, show_page
from holdfast.cli.places import After, ApiKey, Json, Limit, Url, service

debt = typer.Typer(help="What accounts owe.", no_args_is_help=True)

OneAccount = Annotated[str | None, typer.Option("--account", help="Only this account's.")]


@debt.command("list")
def list_debts(
    *,
    account: OneAccount = None,
    after: After = None,
    limit: Limit = 100,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Accounts in debt. Whatever comes into one pays its debt first: `grant`, `adjust`."""
    with service(url, api_key) as connected:
        page = connected.debts(account=account, after=after, limit=limit)
    columns = {
        "account": lambda d: d.account,
        "status": lambda d: d.status,
        "debt": lambda d: credits(d.debt),
        "held": lambda d: credits(d.held),
    }
    return show_page(page, columns, numbers={"debt", "held"}, folds={"account"}, as_json=as_json)


@debt.command("uncollected")
def list_uncollected(
    *,
    account: OneAccount = None,
    after: After = None,
    limit: Limit = 100,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Holds and charges that took less than their work cost (on_shortfall cap)."""
    with service(url, api_key) as connected:
        page = connected.uncollected(account=account, after=after, limit=limit)
    columns = {
        "account": lambda u: u.account,
        "of": lambda u: u.of,
        "kind": lambda u: u.kind,
        "at": lambda u: moment(u.at),
        "left": lambda u: credits(u.uncollected - u.collected),
        "collected": lambda u: credits(u.collected),
    }
    return show_page(
        page, columns, numbers={"left", "collected"}, folds={"account", "of"}, as_json=as_json
    )


@debt.command("collect")
def collect(
    account: AccountId,
    of: Annotated[str, typer.Argument(metavar="OF", help="The hold or charge.")],
    *,
    amount: Annotated[
        Any, amount_option("--amount", "Not more than this. [all that is left]")
    ] = None,
    key: Key = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Charge what a hold or charge could not take; never more, over all calls."""
    with service(url, api_key) as connected:
        done = connected.collect(account, of, amount, key=key)
    return show_posting("collected by", done, as_json)
