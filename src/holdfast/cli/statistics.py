"""Commands over HTTP about what accounts use, and how long their credits last."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Final, Literal, cast

import typer

from holdfast.cli.accounts import account
from holdfast.cli.arguments import AccountId
from holdfast.cli.output import DONE, credits, facts, moment, show, show_json, show_page
from holdfast.cli.places import After, ApiKey, Json, Limit, Url, service

_GROUPS: Final = ("day", "member", "model")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no day like 2027-01-31") from None


def _groups(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if len(set(names)) != len(names) or not set(names) <= set(_GROUPS):
        raise typer.BadParameter(f"{text!r} is not of {', '.join(_GROUPS)}, as in day,model")
    return names


def usage(
    name: AccountId,
    *,
    first: Annotated[
        Any,
        typer.Option(
            "--from", parser=_day, metavar="DAY", help="First UTC day. [30 days before --to]"
        ),
    ] = None,
    last: Annotated[
        Any, typer.Option("--to", parser=_day, metavar="DAY", help="Last UTC day. [today]")
    ] = None,
    by: Annotated[
        Any,
        typer.Option(
            "--by",
            parser=_groups,
            metavar="GROUPS",
            help="day, member or model, or several: day,model.",
        ),
    ] = "day",
    member: Annotated[
        str | None, typer.Option("--member", help="Of this member alone; '' for no member.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Of this model alone; '' for no model.")
    ] = None,
    after: After = None,
    limit: Limit = 100,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """What an account used, by day, member or model: at most 366 days, up to a second behind."""
    groups = cast(tuple[Literal["day", "member", "model"], ...], by)
    with service(url, api_key) as connected:
        page = connected.usage(
            name,
            group_by=groups,
            first=first,
            last=last,
            member=member,
            model=model,
            after=after,
            limit=limit,
        )
    named = {
        "day": lambda u: u.day,
        "member": lambda u: u.member or "(none)",
        "model": lambda u: u.model or "(none)",
    }
    columns = {group: named[group] for group in _GROUPS if group in groups} | {
        "used": lambda u: credits(u.used),
        "spent": lambda u: credits(u.spent),
        "calls": lambda u: f"{u.calls:,}",
    }
    return show_page(
        page,
        columns,
        numbers={"used", "spent", "calls"},
        folds={"member", "model"},
        as_json=as_json,
    )


@account.command("forecast")
def forecast(
    name: AccountId, url: Url = None, api_key: ApiKey = None, as_json: Json = False
) -> int:
    """How fast an account spends, and when it runs out of credits at that rate."""
    with service(url, api_key) as connected:
        found = connected.forecast(name)
    if as_json:
        show_json(found.raw)
        return DONE
    pairs = {
        "account": found.account,
        "available": credits(found.available),
        "balance": found.balance_level,
        "burn per day": credits(found.burn_per_day),
        "measured over": f"{found.basis_days:.1f} days",
        "runs out": moment(found.runs_out_at) or "not in sight",
    }
    show(facts(pairs))
    return DONE
