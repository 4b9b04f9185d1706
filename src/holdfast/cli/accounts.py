"""Commands over HTTP about accounts and their members: settings and balances."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from holdfast.cli.arguments import (
    AccountId,
    Daily,
    Low,
    MaxHold,
    MaxOpen,
    MemberId,
    Metadata,
    Models,
    Monthly,
    Overdraft,
    Plan,
    given,
)
from holdfast.cli.documents import utc
from holdfast.cli.output import (
    DONE,
    USAGE,
    Failure,
    confirm,
    credits,
    facts,
    note,
    show,
    show_json,
    show_page,
    table,
)
from holdfast.cli.places import After, ApiKey, Json, Limit, Url, Yes, service

if TYPE_CHECKING:
    from holdfast.client import Account, Member

account = typer.Typer(help="Accounts: balances and settings.", no_args_is_help=True)
member = typer.Typer(help="Members of an account: limits and usage.", no_args_is_help=True)

MEMBER_SETTINGS: Final = ("daily_limit", "monthly_limit", "max_hold")
ACCOUNT_SETTINGS: Final = (
    *MEMBER_SETTINGS,
    *("overdraft_limit", "max_open_holds", "low_balance", "plan", "models", "metadata"),
)

Why = Annotated[str | None, typer.Option("--reason", help="Why; kept for the record.")]

# ── account ──────────────────────────────────────────────────────────────────────────────────────


@account.command("list")
def list_accounts(
    *,
    prefix: Annotated[str | None, typer.Option("--prefix", help="Ids that begin so.")] = None,
    after: After = None,
    limit: Limit = 100,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Accounts by id, as the journal has them: up to a second behind."""
    with service(url, api_key) as connected:
        page = connected.accounts(prefix=prefix, after=after, limit=limit)
    columns = {
        "account": lambda a: a.account,
        "status": lambda a: a.status,
        "available": lambda a: credits(a.available),
        "held": lambda a: credits(a.held),
        "spent": lambda a: credits(a.spent),
        "debt": lambda a: credits(a.debt) if a.debt else "",
    }
    numbers = {"available", "held", "spent", "debt"}
    return show_page(page, columns, numbers=numbers, folds={"account"}, as_json=as_json)


@account.command("show")
def show_account(
    name: AccountId, url: Url = None, api_key: ApiKey = None, as_json: Json = False
) -> int:
    """Balances, limits, usage and expiring grants of an account, as they are now."""
    with service(url, api_key) as connected:
        return _show_account(connected.get_account(name), as_json)


def _show_account(found: Account, as_json: bool) -> int:
    if as_json:
        show_json(found.raw)
        return DONE
    amounts = ("available", "held", "spent", "granted", "refunded", "forfeited", "debt")
    limits = ("daily_limit", "monthly_limit", "max_hold")
    pairs: dict[str, Any] = {"account": found.account, "status": found.status}
    pairs |= {name: credits(getattr(found, name)) for name in amounts}
    pairs["overdraft limit"] = credits(found.overdraft_limit) if found.overdraft_limit else None
    pairs |= {name.replace("_", " "): credits(found.limits.get(name)) for name in limits}
    pairs["max open holds"] = found.limits.get("max_open_holds")
    pairs["models"] = ", ".join(found.limits.get("models") or ()) or None
    pairs["low balance"] = credits(found.low_balance)
    pairs |= {"used today": credits(found.used_today)}
    pairs |= {"used this month": credits(found.used_this_month), "open holds": found.open_holds}
    pairs |= {"plan": found.plan, "version": found.version}
    pairs["metadata"] = json.dumps(found.metadata) if found.metadata else None
    show(facts(pairs))
    if found.grants:
        rows = [
            (g["id"], credits(g["remaining"]), g["priority"], utc(g["expires_at"]))
            for g in found.grants
        ]
        show(
            "",
            table(
                ("grant", "left", "priority", "expires"), rows, numbers={"left"}, folds={"grant"}
            ),
        )
    if found.stale:
        note("as stored: something is due that could not be expired now")
    return DONE


@account.command("open")
def open_account(
    context: typer.Context,
    name: AccountId,
    *,
    overdraft_limit: Overdraft = None,
    daily_limit: Daily = None,
    monthly_limit: Monthly = None,
    max_hold: MaxHold = None,
    max_open_holds: MaxOpen = None,
    low_balance: Low = None,
    plan: Plan = None,
    models: Models = None,
    metadata: Metadata = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Open an account. One that is there already keeps what is not named."""
    settings = given(context, *ACCOUNT_SETTINGS)
    with service(url, api_key) as connected:
        opened = connected.put_account(name, **settings)
    note(f"{name} was {'opened' if opened.created else 'there already'}")
    return _show_account(opened, as_json)


@account.command("set")
def set_account(
    context: typer.Context,
    name: AccountId,
    *,
    overdraft_limit: Overdraft = None,
    daily_limit: Daily = None,
    monthly_limit: Monthly = None,
    max_hold: MaxHold = None,
    max_open_holds: MaxOpen = None,
    low_balance: Low = None,
    plan: Plan = None,
    models: Models = None,
    metadata: Metadata = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Change settings of an account; `none` takes one away. What is not named stays."""
    settings = given(context, *ACCOUNT_SETTINGS)
    if not settings:
        raise Failure("name a setting to change, see --help", USAGE)
    return _change_account(name, settings, url, api_key, as_json)


@account.command("freeze")
def freeze_account(
    name: AccountId,
    *,
    reason: Why = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Take on nothing new for an account; what is held may still end."""
    return _change_account(name, _status("frozen", reason), url, api_key, as_json)


@account.command("thaw")
def thaw_account(
    name: AccountId,
    *,
    reason: Why = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Let a frozen account spend again."""
    return _change_account(name, _status("active", reason), url, api_key, as_json)


@account.command("close")
def close_account(
    name: AccountId,
    *,
    write_off: Annotated[
        bool, typer.Option("--write-off", help="Bring what is left, credits or debt, to zero.")
    ] = False,
    reason: Why = None,
    yes: Yes = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Close an account for good; nothing may be left in it, or it is written off."""
    if write_off and not (reason and reason.strip()):
        raise Failure("--write-off needs a --reason", USAGE)
    if not yes:
        confirm(f"{'Write off what is left, and close' if write_off else 'Close'} {name} for good?")
    with service(url, api_key) as connected:
        closed = connected.close_account(name, write_off=write_off, reason=reason)
    return _show_account(closed, as_json)


def _status(status: str, reason: str | None) -> dict[str, Any]:
    return {"status": status} | ({"reason": reason} if reason else {})


def _change_account(
    name: str, settings: dict[str, Any], url: str | None, api_key: str | None, as_json: bool
) -> int:
    with service(url, api_key) as connected:
        connected.get_account(name)  # a name with a typing error must not open an account
        return _show_account(connected.put_account(name, **settings), as_json)


# ── member ───────────────────────────────────────────────────────────────────────────────────────


@member.command("show")
def show_member(
    name: AccountId,
    who: MemberId,
    *,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Limits and usage of a member."""
    with service(url, api_key) as connected:
        return _show_member(connected.get_member(name, who), as_json)


@member.command("set")
def set_member(
    context: typer.Context,
    name: AccountId,
    who: MemberId,
    *,
    daily_limit: Daily = None,
    monthly_limit: Monthly = None,
    max_hold: MaxHold = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Change limits of a member; `none` takes one away. What is not named stays."""
    settings = given(context, *MEMBER_SETTINGS)
    if not settings:
        raise Failure("name a limit to change, see --help", USAGE)
    with service(url, api_key) as connected:
        now: dict[str, Any] = dict(connected.get_member(name, who).limits)  # all are set at once
        return _show_member(connected.put_member(name, who, **(now | settings)), as_json)


def _show_member(found: Member, as_json: bool) -> int:
    if as_json:
        show_json(found.raw)
        return DONE
    pairs: dict[str, Any] = {"account": found.account, "member": found.member}
    pairs |= {name.replace("_", " "): credits(value) for name, value in found.limits.items()}
    pairs |= {"used today": credits(found.used_today)}
    show(facts(pairs | {"used this month": credits(found.used_this_month)}))
    return DONE
