"""Commands over HTTP that move credits: holds, charges, grants, refunds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from holdfast.cli.arguments import (
    AccountId,
    Amount,
    Durability,
    Expiry,
    HoldId,
    Key,
    MaybeAmount,
    Model,
    Shortfall,
    SignedAmount,
    Who,
    Words,
    amount_option,
    parse_payment,
)
from holdfast.cli.output import (
    DONE,
    USAGE,
    Failure,
    credits,
    facts,
    moment,
    note,
    show,
    show_json,
    show_page,
)
from holdfast.cli.places import After, ApiKey, Json, Limit, Url, service

if TYPE_CHECKING:
    from holdfast.client import Hold, Posting

hold = typer.Typer(help="Holds: credits set aside for work.", no_args_is_help=True)

Ttl = Annotated[
    int | None, typer.Option("--ttl", min=1, max=86_400, help="Seconds until it expires.")
]


@hold.command("list")
def list_holds(
    account: AccountId,
    *,
    state: Annotated[
        Literal["held", "committed", "released", "expired"] | None, typer.Option("--state")
    ] = None,
    after: After = None,
    limit: Limit = 100,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Holds of an account by id, as the journal has them: up to a second behind."""
    with service(url, api_key) as connected:
        page = connected.holds(account, state=state, after=after, limit=limit)
    columns = {
        "hold": lambda h: h.id,
        "state": lambda h: f"{h.state}, due" if h.stale else h.state,
        "amount": lambda h: credits(h.amount),
        "committed": lambda h: credits(h.committed),
        "remaining": lambda h: credits(h.remaining),
        "member": lambda h: h.member,
        "expires": lambda h: moment(h.expires_at),
    }
    numbers = {"amount", "committed", "remaining"}
    return show_page(page, columns, numbers=numbers, folds={"hold", "member"}, as_json=as_json)


@hold.command("show")
def show_hold(
    account: AccountId,
    name: HoldId,
    *,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """A hold as it is now."""
    with service(url, api_key) as connected:
        return _show_hold(connected.get_hold(account, name), as_json)


@hold.command("reserve")
def reserve(
    account: AccountId,
    amount: Amount,
    *,
    min_amount: Annotated[Any, amount_option("--min-amount", "Less will do, down to this.")] = None,
    ttl: Ttl = None,
    member: Who = None,
    model: Model = None,
    description: Words = None,
    key: Key = None,
    durability: Durability = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Set credits aside. The key is the hold's id; without one, one is made."""
    with service(url, api_key) as connected:
        made = connected.reserve(
            account,
            amount,
            min_amount=min_amount,
            ttl_seconds=ttl,
            member=member,
            model=model,
            description=description,
            key=key,
            durability=durability,
        )
    return _show_hold(made, as_json)


@hold.command("commit")
def commit(
    account: AccountId,
    name: HoldId,
    amount: MaybeAmount = None,
    *,
    on_shortfall: Shortfall = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Keep the rest held, for more commits.")
    ] = False,
    description: Words = None,
    key: Key = None,
    durability: Durability = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Take what the work cost (default: all of the hold); the rest goes back."""
    with service(url, api_key) as connected:
        done = connected.commit(
            account,
            name,
            amount,
            on_shortfall=on_shortfall,
            final=not partial,
            description=description,
            key=key,
            durability=durability,
        )
    return _show_hold(done, as_json)


@hold.command("release")
def release(
    account: AccountId,
    name: HoldId,
    *,
    reason: Annotated[str | None, typer.Option("--reason", help="Kept with the entry.")] = None,
    key: Key = None,
    durability: Durability = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Give back what is left of a hold."""
    with service(url, api_key) as connected:
        done = connected.release(account, name, reason=reason, key=key, durability=durability)
    return _show_hold(done, as_json)


@hold.command("extend")
def extend(
    account: AccountId,
    name: HoldId,
    *,
    ttl: Ttl = None,
    add: Annotated[Any, amount_option("--add", "Set so much more aside.")] = None,
    key: Key = None,
    durability: Durability = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Give a hold more time, more credits, or both."""
    if ttl is None and add is None:
        raise Failure("name --ttl or --add", USAGE)
    with service(url, api_key) as connected:
        done = connected.extend(
            account, name, ttl_seconds=ttl, add_amount=add, key=key, durability=durability
        )
    return _show_hold(done, as_json)


def _show_hold(found: Hold, as_json: bool) -> int:
    if as_json:
        show_json({**found.raw, "replayed": found.replayed})
        return DONE
    rare = {name: credits(getattr(found, name)) for name in ("uncollected",) if found.uncollected}
    show(
        facts(
            {
                "hold": found.id,
                "account": found.account,
                "member": found.member,
                "state": f"{found.state}, late" if found.late else found.state,
                "amount": credits(found.amount),
                "committed": credits(found.committed),
                "remaining": credits(found.remaining),
                **rare,
                "expires": moment(found.expires_at),
                "metadata": json.dumps(found.metadata) if found.metadata else None,
                **_of_account(found),
            }
        )
    )
    if found.stale:
        note("as stored: something is due that could not be expired now")
    return DONE


# ── charge, grant, refund ────────────────────────────────────────────────────────────────────────


def charge(
    account: AccountId,
    amount: Amount,
    *,
    on_shortfall: Shortfall = None,
    member: Who = None,
    model: Model = None,
    description: Words = None,
    key: Key = None,
    durability: Durability = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Take credits at once, for work that is done or priced."""
    with service(url, api_key) as connected:
        done = connected.charge(
            account,
            amount,
            on_shortfall=on_shortfall,
            member=member,
            model=model,
            description=description,
            key=key,
            durability=durability,
        )
    return show_posting("charge", done, as_json)


def grant(
    account: AccountId,
    amount: Amount,
    *,
    source: Annotated[
        Literal["purchase", "allowance", "promo", "adjustment"] | None,
        typer.Option("--source", help="Where they come from."),
    ] = None,
    expires_at: Expiry = None,
    priority: Annotated[
        int | None,
        typer.Option("--priority", min=0, help="Of those that expire together, lower goes first."),
    ] = None,
    payment: Annotated[
        Any,
        typer.Option(
            "--payment",
            parser=parse_payment,
            metavar="PROVIDER:ID",
            help="The payment that buys them, stripe:pi_123: it counts once.",
        ),
    ] = None,
    description: Words = None,
    key: Key = None,
    durability: Durability = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Put credits into an account; debt is paid first."""
    with service(url, api_key) as connected:
        done = connected.grant(
            account,
            amount,
            source=source,
            priority=priority,
            expires_at=expires_at,
            payment=payment,
            description=description,
            key=key,
            durability=durability,
        )
    return show_posting("grant", done, as_json)


def adjust(
    account: AccountId,
    amount: SignedAmount,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the entry.")],
    description: Words = None,
    key: Key = None,
    durability: Durability = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Correct an account by hand: add, or, with a negative amount, take; debt is paid first."""
    if not reason.strip():
        raise Failure("--reason needs a word", USAGE)
    with service(url, api_key) as connected:
        done = connected.adjust(
            account, amount, reason=reason, description=description, key=key, durability=durability
        )
    return show_posting("adjustment", done, as_json)


def refund(
    account: AccountId,
    of: Annotated[str, typer.Argument(metavar="OF", help="The hold or charge.")],
    amount: Annotated[
        Any, amount_option("--amount", "Not more than this. [all that is left]")
    ] = None,
    *,
    reason: Annotated[str | None, typer.Option("--reason", help="Kept with the entry.")] = None,
    key: Key = None,
    durability: Durability = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Give back what a hold or a charge took."""
    with service(url, api_key) as connected:
        done = connected.refund(account, of, amount, reason=reason, key=key, durability=durability)
    return show_posting("refund", done, as_json)


def show_posting(kind: str, done: Posting, as_json: bool) -> int:
    """A charge, grant, refund or adjustment."""
    if as_json:
        show_json({**done.raw, "replayed": done.replayed})
        return DONE
    rare = {"uncollected": credits(done.uncollected)} if done.uncollected else {}
    show(
        facts(
            {
                kind: done.id,
                "account": done.account,
                "member": done.member,
                "amount": credits(done.amount),
                **rare,
                "of": done.of,
                "source": done.source,
                **_of_account(done),
            }
        )
    )
    return DONE


def _of_account(answer: Hold | Posting) -> dict[str, Any]:
    """What the answer says of its account, and of itself."""
    if answer.replayed:
        note(f"nothing new: this was done before with key {answer.key or answer.id}")
    return {
        "available now": credits(answer.available),
        "held now": credits(answer.held),
        "durability": answer.durability,
    }
