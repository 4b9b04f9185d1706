"""How commands read what they are given: amounts, times, limits, and the options they share."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import typer

from holdfast.cli.output import parse_amount

NONE: Final = "none"
"""What is written to take a setting away."""


def _amount(text: str) -> int:
    try:
        return parse_amount(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _signed(text: str) -> int:
    return -_amount(text[1:]) if text.startswith("-") else _amount(text)


def _limit(text: str) -> int | str:
    return NONE if text == NONE else _amount(text)


def _count(text: str) -> int | str:
    if text == NONE or (text.isascii() and text.isdigit() and len(text) < 10):
        return NONE if text == NONE else int(text)
    raise typer.BadParameter(f"{text!r} is neither a number nor {NONE}")


def parse_moment(text: str) -> datetime:
    """A time with its zone. Raises typer.BadParameter."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time like 2027-01-31T12:00:00Z") from None
    if at.tzinfo is None:
        raise typer.BadParameter(f"{text!r} has no time zone: end it with Z for UTC")
    return at


def parse_payment(text: str) -> dict[str, str]:
    """A payment as PROVIDER:ID. Raises typer.BadParameter."""
    provider, _, name = text.partition(":")
    if not provider or not name:
        raise typer.BadParameter(f"{text!r} is no payment like stripe:pi_123")
    return {"provider": provider, "id": name}


def parse_models(text: str) -> list[str]:
    """Names of models, with commas."""
    return text.split(",")


def _models(text: str) -> list[str] | str:
    return NONE if text == NONE else parse_models(text)


def _object(text: str) -> dict[str, Any] | str:
    try:
        value = NONE if text == NONE else json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"this is not JSON: {error}") from None
    if value != NONE and not isinstance(value, dict):
        raise typer.BadParameter("this is not a JSON object")
    return value


AccountId = Annotated[str, typer.Argument(metavar="ACCOUNT")]
MemberId = Annotated[str, typer.Argument(metavar="MEMBER")]
HoldId = Annotated[str, typer.Argument(metavar="HOLD")]
Amount = Annotated[int, typer.Argument(parser=_amount, metavar="AMOUNT", help="1500000 or 1.5cr.")]
SignedAmount = Annotated[
    int,
    typer.Argument(parser=_signed, metavar="AMOUNT", help="1500000 or 1.5cr; -1.5cr takes."),
]
MaybeAmount = Annotated[
    int | None, typer.Argument(parser=_amount, metavar="AMOUNT", help="1500000 or 1.5cr.")
]
Key = Annotated[
    str | None,
    typer.Option("--key", help="Idempotency-Key: repeated with it, nothing happens twice."),
]
Model = Annotated[str | None, typer.Option("--model", help="The model that it is for.")]
Who = Annotated[str | None, typer.Option("--member", help="Who spends it.")]
Words = Annotated[str | None, typer.Option("--description", help="Kept with the entry.")]
Shortfall = Annotated[
    Literal["reject", "cap", "debt"] | None,
    typer.Option("--on-shortfall", help="Where funds do not suffice. [the service: reject]"),
]
Durability = Annotated[
    Literal["memory", "local", "settled"] | None,
    typer.Option("--durability", help="What the answer must survive. [as the service is set]"),
]


def amount_option(name: str, what: str) -> Any:
    """An option that takes an amount."""
    return typer.Option(name, parser=_amount, metavar="AMOUNT", help=what)


def _setting(name: str, what: str, parser: Any = _limit, metavar: str = "AMOUNT") -> Any:
    return typer.Option(name, parser=parser, metavar=f"{metavar}|none", help=what)


Expiry = Annotated[
    datetime | None, typer.Option("--expires-at", parser=parse_moment, metavar="TIME")
]

Daily = Annotated[Any, _setting("--daily-limit", "Most that a UTC day may use.")]
Monthly = Annotated[Any, _setting("--monthly-limit", "Most that a UTC month may use.")]
MaxHold = Annotated[Any, _setting("--max-hold", "Most that one hold or charge may be.")]
MaxOpen = Annotated[Any, _setting("--max-open-holds", "Most holds at once.", _count, "NUMBER")]
Overdraft = Annotated[Any, _setting("--overdraft-limit", "How far below 0 it may go.")]
Low = Annotated[Any, _setting("--low-balance", "Below this the balance counts as low.")]
Plan = Annotated[
    Any, _setting("--plan", "A plan; a word of your own where none is defined.", str, "NAME")
]
Models = Annotated[
    Any, _setting("--models", "Models that it may use: a,b. [all]", _models, "NAMES")
]
Metadata = Annotated[Any, _setting("--metadata", "An object of your own.", _object, "JSON")]


def given(context: typer.Context, *names: str) -> dict[str, Any]:
    """The settings that were named on the command line; one that is to go is None."""
    found = {name: context.params[name] for name in names}
    return {k: None if v == NONE else v for k, v in found.items() if v is not None}
