"""Commands over HTTP about plans, and about the allowances that accounts have of them."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

import typer

from holdfast.cli.arguments import AccountId, amount_option, parse_models
from holdfast.cli.documents import Document, ask, show_documents, utc
from holdfast.cli.output import (
    DONE,
    confirm,
    credits,
    facts,
    note,
    show,
    show_json,
)
from holdfast.cli.places import After, ApiKey, Json, Limit, Url, Yes, service

plan = typer.Typer(help="Plans: limits, and credits by period.", no_args_is_help=True)
allowance = typer.Typer(
    help="Allowances: the credits that accounts are given by period.", no_args_is_help=True
)

PlanName = Annotated[str, typer.Argument(metavar="PLAN")]
_AMOUNTS = ("credits_per_period", "rollover_cap", "max_hold", "daily_limit", "monthly_limit")


def _page(after: str | None, limit: int) -> dict[str, str]:
    from holdfast.client.call import query_of  # noqa: PLC0415

    return query_of(after=after, limit=limit)


def _plan_path(name: str) -> str:
    from holdfast.client.call import checked_id  # noqa: PLC0415

    return f"/v1/admin/plans/{checked_id('plan', name)}"


def _allowance_path(account: str) -> str:
    from holdfast.client.call import account_path  # noqa: PLC0415

    return f"{account_path(account)}/allowance"


# ── plan ─────────────────────────────────────────────────────────────────────────────────────────


@plan.command("put")
def put_plan(
    name: PlanName,
    *,
    per_period: Annotated[int | None, amount_option("--credits", "Given by period. [none]")] = None,
    period: Annotated[
        Literal["month", "anniversary"],
        typer.Option("--period", help="Calendar months, or months from the account's first day."),
    ] = "month",
    rollover_cap: Annotated[
        int | None, amount_option("--rollover-cap", "Most that is left to the next period. [0]")
    ] = None,
    max_hold: Annotated[
        int | None, amount_option("--max-hold", "Most that one hold or charge may be.")
    ] = None,
    daily_limit: Annotated[
        int | None, amount_option("--daily-limit", "Most that a UTC day may use.")
    ] = None,
    monthly_limit: Annotated[
        int | None, amount_option("--monthly-limit", "Most that a UTC month may use.")
    ] = None,
    max_open_holds: Annotated[
        int | None, typer.Option("--max-open-holds", min=0, help="Most holds at once.")
    ] = None,
    models: Annotated[
        Any,
        typer.Option(
            "--models", parser=parse_models, metavar="NAMES", help="Those to use: a,b. [all]"
        ),
    ] = None,
    paid: Annotated[
        bool, typer.Option("--paid", help="Whoever is on it pays: it ends trials.")
    ] = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Define a plan, or define it anew: what is not named is not in it."""
    body: Document = {
        "credits_per_period": per_period,
        "period": period,
        "rollover_cap": rollover_cap,
        "max_hold": max_hold,
        "daily_limit": daily_limit,
        "monthly_limit": monthly_limit,
        "max_open_holds": max_open_holds,
        "models": models,
        "paid": paid,
    }
    with service(url, api_key) as connected:
        return _show_plan(ask(connected, "plan", "PUT", _plan_path(name), body=body), as_json)


@plan.command("show")
def show_plan(
    name: PlanName, url: Url = None, api_key: ApiKey = None, as_json: Json = False
) -> int:
    """A plan as it is defined."""
    with service(url, api_key) as connected:
        return _show_plan(ask(connected, "plan", "GET", _plan_path(name)), as_json)


@plan.command("list")
def list_plans(
    after: After = None,
    limit: Limit = 100,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """All plans by name."""
    with service(url, api_key) as connected:
        page = ask(connected, "plan", "GET", "/v1/admin/plans", query=_page(after, limit))
    columns = ("plan", "credits", "rollover cap", "max hold", "a day", "a month", "period")
    return show_documents(
        page,
        columns,
        lambda each: (each["name"], *(credits(each[name]) for name in _AMOUNTS), each["period"]),
        numbers=set(columns[1:-1]),
        folds={"plan"},
        as_json=as_json,
    )


def _show_plan(found: Document, as_json: bool) -> int:
    if as_json:
        show_json(found)
        return DONE
    pairs: Document = {"plan": found["name"], "revision": found["revision"]}
    pairs |= {name.replace("_", " "): credits(found[name]) for name in _AMOUNTS}
    pairs |= {"max open holds": found["max_open_holds"], "period": found["period"]}
    pairs["models"] = ", ".join(found["models"]) if found["models"] else None
    pairs |= {"paid": "yes" if found["paid"] else "no"}
    show(facts(pairs | {"changed": utc(found["updated_at"])}))
    return DONE


# ── allowance ────────────────────────────────────────────────────────────────────────────────────


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no day like 2027-01-31") from None


@allowance.command("set")
def set_allowance(
    account: AccountId,
    plan_name: PlanName,
    *,
    anchor: Annotated[
        str | None,
        typer.Option(
            "--anchor",
            parser=_day,
            metavar="DAY",
            help="The day whose anniversaries begin periods. [the account's first]",
        ),
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Assign a plan that gives credits, and let them begin with the period under way."""
    body = {"plan": plan_name} | ({} if anchor is None else {"anchor": anchor})
    with service(url, api_key) as connected:
        return _show_allowance(
            ask(connected, "allowance", "PUT", _allowance_path(account), body=body), as_json
        )


@allowance.command("stop")
def stop_allowance(
    account: AccountId,
    *,
    yes: Yes = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Give nothing more. What was given stays until it expires."""
    if not yes:
        confirm(f"Stop the allowance of {account}?")
    with service(url, api_key) as connected:
        return _show_allowance(
            ask(connected, "allowance", "DELETE", _allowance_path(account)), as_json
        )


@allowance.command("show")
def show_allowance(
    account: AccountId, url: Url = None, api_key: ApiKey = None, as_json: Json = False
) -> int:
    """What an account is given by period, and when next."""
    with service(url, api_key) as connected:
        found = ask(connected, "allowance", "GET", _allowance_path(account), query=_page(None, 1))
    found.pop("history")
    return _show_allowance(found, as_json)


@allowance.command("history")
def show_history(
    account: AccountId,
    *,
    after: After = None,
    limit: Limit = 100,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """The periods of an account, newest first: what each gave, and what was carried into it."""
    with service(url, api_key) as connected:
        query = _page(after, limit)
        page = ask(connected, "allowance", "GET", _allowance_path(account), query=query)["history"]
    return show_documents(
        page,
        ("from", "until", "plan", "granted", "rolled over", "state"),
        lambda each: (
            *(each["period_start"], each["period_end"], each["plan"], credits(each["granted"])),
            "waits" if each["rolled_over"] is None else credits(each["rolled_over"]),
            "missed" if each["missed"] else each["state"],
        ),
        numbers={"granted", "rolled over"},
        folds={"plan"},
        as_json=as_json,
    )


@allowance.command("list")
def list_allowances(
    after: After = None,
    limit: Limit = 100,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """All allowances by account, stopped ones too."""
    with service(url, api_key) as connected:
        page = ask(connected, "allowance", "GET", "/v1/admin/allowances", query=_page(after, limit))
    return show_documents(
        page,
        ("account", "plan", "credits", "period", "next"),
        lambda each: (
            *(each["account"], each["plan"], credits(each["credits_per_period"]), each["period"]),
            "stopped" if each["stopped_at"] else each["next_at"],
        ),
        numbers={"credits"},
        folds={"account", "plan"},
        as_json=as_json,
    )


def _show_allowance(found: Document, as_json: bool) -> int:
    if as_json:
        show_json(found)
        return DONE
    pairs: Document = {"account": found["account"], "plan": found["plan"]}
    pairs |= {"credits": credits(found["credits_per_period"]), "period": found["period"]}
    pairs |= {"rollover cap": credits(found["rollover_cap"]), "anchor": found["anchor"]}
    pairs |= {"next": None if found["stopped_at"] else found["next_at"]}
    pairs |= {"started": utc(found["started_at"]), "stopped": utc(found["stopped_at"])}
    show(facts(pairs))
    if found["credits_per_period"] is None and not found["stopped_at"]:
        note("its plan gives no credits any more: it ends with this period")
    return DONE
