"""What callers send: request bodies and query parameters, as strict models.

Numbers are integers and nothing else, unknown fields are refused, and a field that is null counts
as one that was not sent, but in settings, where null takes the setting away. Every refusal names
the field and says what would be right.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Annotated, Any, Final, Literal, Self, TypeVar
from urllib.parse import parse_qsl

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from holdfast.api_keys import ACCOUNTS_PATTERN, Scope
from holdfast.errors import InvalidRequest, MalformedJson
from holdfast.http.fields import (
    Amount,
    AmountOrZero,
    Count,
    Cursor,
    Id,
    Metadata,
    Model,
    Models,
    Name,
    NotYet,
    OnShortfall,
    Time,
    TtlSeconds,
    Words,
)
from holdfast.keys import ID_PATTERN
from holdfast.model import MAX_AMOUNT
from holdfast.purchases import PAYMENT_PATTERN, PROVIDER_PATTERN

MAX_OPERATIONS: Final = 1000
MAX_PAGE: Final = 1000


class Form(BaseModel):
    """What every body and query has in common: strict types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────


class Usage(Form):
    """What the work is for."""

    model: Annotated[
        Model, Field(description="stays with the hold; usage is added up by it, plans may limit it")
    ]


class Reserve(Form):
    """A new hold."""

    amount: Amount
    min_amount: Annotated[
        Amount | None, Field(description="less will do: what is available, if at least this")
    ] = None
    ttl_seconds: TtlSeconds | None = None
    member: Id | None = None
    description: Words | None = None
    metadata: Metadata | None = None
    usage: Usage | None = None
    quote_id: NotYet = None


class Commit(Form):
    """What a piece of work really cost; without an amount, all of its hold."""

    amount: AmountOrZero | None = None
    on_shortfall: OnShortfall | None = None
    final: Annotated[
        bool | None, Field(description="false keeps the rest held; needs an Idempotency-Key")
    ] = None
    description: Words | None = None
    metadata: Metadata | None = None
    usage: NotYet = None


class Release(Form):
    """The end of a hold that is not needed."""

    reason: Words | None = None
    description: Words | None = None
    metadata: Metadata | None = None


class Extend(Form):
    """More time for a hold, more credits, or both."""

    ttl_seconds: Annotated[
        TtlSeconds | None, Field(description="the deadline becomes now + this, if that is later")
    ] = None
    add_amount: Annotated[
        Amount | None, Field(description="microcredits to set aside more; needs an Idempotency-Key")
    ] = None
    description: Words | None = None
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.ttl_seconds is None and self.add_amount is None:
            raise InvalidRequest.of_field("ttl_seconds", "is required, or add_amount, or both")
        return self


class Charge(Form):
    """Credits to take at once, for work that is done or priced."""

    amount: Amount
    on_shortfall: OnShortfall | None = None
    member: Id | None = None
    description: Words | None = None
    metadata: Metadata | None = None
    usage: Usage | None = None
    quote_id: NotYet = None


class Refund(Form):
    """Credits to give back of what a hold or charge took; without an amount, all that is left."""

    of: Annotated[Id, Field(description="the hold or charge")]
    amount: Amount | None = None
    reason: Words | None = None
    description: Words | None = None
    metadata: Metadata | None = None


class Payment(Form):
    """What a payment provider calls a payment."""

    provider: Annotated[
        str, StringConstraints(pattern=f"^{PROVIDER_PATTERN}$"), Field(examples=["stripe"])
    ]
    id: Annotated[str, StringConstraints(pattern=f"^{PAYMENT_PATTERN}$")]


class Grant(Form):
    """Credits to put into an account."""

    amount: Amount
    source: Literal["purchase", "allowance", "promo", "adjustment"] | None = None
    priority: Annotated[
        int | None,
        Field(
            ge=0, le=1_000_000, description="of grants that expire together, the lower goes first"
        ),
    ] = None
    expires_at: Time | None = None
    description: Words | None = None
    metadata: Metadata | None = None
    payment: Annotated[
        Payment | None, Field(description="makes it a purchase, which happens once a payment")
    ] = None


class AccountSettings(Form):
    """Settings to change; those left out stay as they are, null takes one away."""

    overdraft_limit: AmountOrZero | None = None
    daily_limit: AmountOrZero | None = None
    monthly_limit: AmountOrZero | None = None
    max_hold: AmountOrZero | None = None
    max_open_holds: Count | None = None
    low_balance: AmountOrZero | None = None
    plan: Name | None = None
    models: Models | None = None
    status: Annotated[
        Literal["active", "frozen", "closed"],
        Field(json_schema_extra=lambda schema: schema.pop("default")),  # left out, it stays
    ] = "active"
    metadata: Metadata | None = None
    reason: Annotated[Words | None, Field(description="why; kept with the entry")] = None


class MemberLimits(Form):
    """Limits of a member: one that is left out stays as it is, null takes one away."""

    daily_limit: AmountOrZero | None = None
    monthly_limit: AmountOrZero | None = None
    max_hold: AmountOrZero | None = None


class NewApiKey(Form):
    """An API key to make."""

    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=4)]
    accounts: Annotated[
        str | None,
        Field(
            pattern=f"^{ACCOUNTS_PATTERN}$",
            description="the account that the key may see; ending in *, all that begin so",
        ),
    ] = None


class Operation(Form):
    """One call of a batch."""

    op: Literal["reserve", "commit", "release", "extend", "charge", "refund", "grant"]
    account: str
    hold: Annotated[str | None, Field(description="for commit, release and extend")] = None
    key: Annotated[str | None, Field(description="the call's own Idempotency-Key")] = None
    body: Annotated[
        dict[str, Any] | None, Field(description="as the body of the same call alone")
    ] = None


class Batch(Form):
    """Calls to make, in order within an account and in no order across accounts."""

    operations: Annotated[list[Operation], Field(min_length=1, max_length=MAX_OPERATIONS)]


# ── queries ──────────────────────────────────────────────────────────────────────────────────────


class NoQuery(Form):
    """No query parameters."""


class Page(Form):
    """Which part of a list."""

    model_config = ConfigDict(extra="forbid", strict=False)  # a query has only text

    after: Annotated[Cursor | None, Field(description="`next` of the page before")] = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100


class AccountsPage(Page):
    """Which accounts to list."""

    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{0,128}$")] = ""


class HoldsPage(Page):
    """Which holds to list."""

    state: Literal["held", "committed", "released", "expired"] | None = None


# ── from what was sent to a model ────────────────────────────────────────────────────────────────

F = TypeVar("F", bound=Form)


def parse_body(form: type[F], body: bytes) -> F:
    """The model of a JSON body; an empty body is `{}`. Raises MalformedJson, InvalidRequest."""
    try:
        # The validator itself: model_validate_json asks half a dozen questions first.
        parsed: F = form.__pydantic_validator__.validate_json(body or b"{}")
    except ValidationError as error:
        raise _refusal(form, error) from None
    return parsed


def parse_object(form: type[F], body: Mapping[str, Any]) -> F:
    """The model of a body that was parsed already. Raises InvalidRequest."""
    try:
        parsed: F = form.__pydantic_validator__.validate_python(body)
    except ValidationError as error:
        raise _refusal(form, error) from None
    return parsed


def parse_query(form: type[F], query: bytes) -> F:
    """The model of a query string. Raises InvalidRequest."""
    sent: dict[str, str] = {}
    try:
        # More parameters than any form has are refused as unknown ones anyway.
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=32
        )
    except ValueError as error:
        raise InvalidRequest("the query string is malformed", errors=[]) from error
    for name, value in pairs:
        if name in sent:
            raise InvalidRequest.of_field(name, "is given twice")
        sent[name] = value
    return parse_object(form, sent)


def _refusal(form: type[Form], error: ValidationError) -> InvalidRequest:
    """The first eight things that are wrong, each by its field."""
    wrong = []
    for each in error.errors(include_url=False, include_input=False)[:8]:
        if each["type"] == "json_invalid":
            return MalformedJson(
                f"the body is not JSON: {each['msg'].removeprefix('Invalid JSON: ')}"
            )
        field = _path(each["loc"]) or "body"
        wrong.append({"field": field, "message": _message(form, each)})
    detail = "; ".join(f"{each['field']}: {each['message']}" for each in wrong)
    return InvalidRequest(detail, errors=wrong)


def _path(location: tuple[str | int, ...]) -> str:
    """`operations[3].op` for ("operations", 3, "op")."""
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{str(step)[:64]}"
    return path.removeprefix(".")


_ID_WORDS = "1 to 128 characters of A-Z a-z 0-9 _ . : -"
_MESSAGES: Final[Mapping[str, str]] = {
    "missing": "is required",
    "none_required": "is not available yet in this release",
    "int_type": "must be an integer, written without quotes, fraction or exponent",
    "int_parsing": "must be an integer",
    "int_parsing_size": "must be an integer of at most {MAX_AMOUNT}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "dict_type": "must be an object",
    "list_type": "must be an array",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "string_too_short": "must be at least {min_length} characters",
    "string_too_long": "must be at most {max_length} characters",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "literal_error": "must be one of {expected}",
    "value_error": "{error}",
}


def _message(form: type[Form], error: Any) -> str:
    """What would be right, in words of our own; the field is named before it."""
    kind = error["type"]
    if kind == "extra_forbidden":
        if len(error["loc"]) > 1:
            return "is not known here"
        known = ", ".join(
            field.alias or name
            for name, field in form.model_fields.items()
            if field.annotation is not NoneType  # NotYet
        )
        return f"is not known here; known are: {known or 'none'}"
    if kind == "string_pattern_mismatch":
        pattern = error["ctx"]["pattern"]
        return f"must be {_ID_WORDS}" if ID_PATTERN in pattern else f"must match {pattern}"
    words = _MESSAGES.get(kind)
    if words is None:
        return str(error["msg"])
    return words.format(MAX_AMOUNT=MAX_AMOUNT, **error.get("ctx", {}))
