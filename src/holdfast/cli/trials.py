"""Commands over HTTP about trials: accounts that pay nothing, up to a limit."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from holdfast.cli.arguments import AccountId, Amount, Expiry
from holdfast.cli.documents import Document, ask, show_documents, utc
from holdfast.cli.output import (
    DONE,
    confirm,
    credits,
    facts,
    show,
    show_json,
)
from holdfast.cli.places import After, ApiKey, Json, Limit, Url, Yes, service

trial = typer.Typer(help="Trials: accounts that pay nothing, up to a limit.", no_args_is_help=True)


def _path(account: str) -> str:
    from holdfast.client.call import account_path  # noqa: PLC0415

    return f"{account_path(account)}/trial"


@trial.command("start")
def start_trial(
    account: AccountId,
    limit: Amount,
    *,
    expires_at: Expiry = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Let an account spend AMOUNT without paying. It has one trial, ever."""
    body: Document = {"spending_limit": limit}
    if expires_at is not None:
        body["expires_at"] = expires_at.isoformat()
    with service(url, api_key) as connected:
        return _show(ask(connected, "trial", "PUT", _path(account), body=body), as_json)


@trial.command("show")
def show_trial(
    account: AccountId, url: Url = None, api_key: ApiKey = None, as_json: Json = False
) -> int:
    """The trial of an account, also one that is over."""
    with service(url, api_key) as connected:
        return _show(ask(connected, "trial", "GET", _path(account)), as_json)


@trial.command("end")
def end_trial(
    account: AccountId,
    *,
    reason: Annotated[str | None, typer.Option("--reason", help="Kept with the trial.")] = None,
    yes: Yes = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """End a trial. The account keeps its credits, and gets no other trial."""
    if not yes:
        confirm(f"End the trial of {account}?")
    query = {} if reason is None else {"reason": reason}
    with service(url, api_key) as connected:
        return _show(ask(connected, "trial", "DELETE", _path(account), query=query), as_json)


@trial.command("list")
def list_trials(
    *,
    state: Annotated[
        Literal["active", "ended", "overridden"] | None, typer.Option("--state")
    ] = None,
    after: After = None,
    limit: Limit = 100,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Trials by account."""
    from holdfast.client.call import query_of  # noqa: PLC0415

    query = query_of(state=state, after=after, limit=limit)
    with service(url, api_key) as connected:
        page = ask(connected, "trial", "GET", "/v1/admin/trials", query=query)
    return show_documents(
        page,
        ("account", "limit", "state", "since", "why"),
        lambda each: (
            *(each["account"], credits(each["spending_limit"]), each["state"]),
            *(utc(each["ended_at"] or each["started_at"]), _why(each)),
        ),
        numbers={"limit"},
        folds={"account", "why"},
        as_json=as_json,
    )


def _show(found: Document, as_json: bool) -> int:
    if as_json:
        show_json(found)
        return DONE
    pairs: Document = {"account": found["account"], "state": found["state"]}
    pairs |= {"spending limit": credits(found["spending_limit"]), "grant": found["granted"]}
    pairs |= {"expires": utc(found["expires_at"]), "started": utc(found["started_at"])}
    pairs |= {"ended": utc(found["ended_at"]), "by": found["ended_by"], "why": _why(found)}
    show(facts(pairs))
    return DONE


def _why(found: Document) -> str:
    return ", ".join(found["signs"]) or found["reason"] or ""
