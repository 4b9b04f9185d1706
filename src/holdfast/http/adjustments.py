"""What an admin does to the books of an account: correct it by hand, and close it."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from holdfast.closing import close_account
from holdfast.errors import InvalidRequest
from holdfast.http.answers import (
    AccountAnswer,
    Answer,
    MovementAnswer,
    account_answer,
    movement_answer,
)
from holdfast.http.bodies import Form
from holdfast.http.fields import Metadata, Words
from holdfast.http.requests import Call
from holdfast.model import MAX_AMOUNT


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("must say why")
    return text


Reason = Annotated[Words, AfterValidator(_said), Field(description="why; kept with the entry")]


class Adjust(Form):
    """A correction by hand, with its reason."""

    amount: Annotated[
        int,
        Field(
            ge=-MAX_AMOUNT,
            le=MAX_AMOUNT,
            description="microcredits to add, or, negative, to take; not 0",
        ),
    ]
    reason: Reason
    description: Words | None = None
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _moves_something(self) -> Self:
        if self.amount == 0:
            raise InvalidRequest.of_field("amount", "must not be 0")
        return self


class Close(Form):
    """The end of an account."""

    write_off: Annotated[
        bool, Field(description="bring what is left, credits or debt, to zero first")
    ] = False
    reason: Annotated[Reason | None, Field(description="required with write_off")] = None

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if self.write_off and self.reason is None:
            raise InvalidRequest.of_field("reason", "is required with write_off")
        return self


async def adjust(call: Call, body: Adjust) -> Answer[MovementAnswer]:
    """Correct the balance by hand. What is added pays debt first; nothing is taken below zero."""
    movement = await call.ledger.adjust(
        call.account,
        call.own_key,
        amount=body.amount,
        reason=body.reason,
        metadata=body.metadata,
        context=call.audited_context(body.description),
        durability=call.durability,
    )
    return Answer(200 if movement.replayed else 201, movement_answer(movement), movement.replayed)


async def close(call: Call, body: Close) -> Answer[AccountAnswer]:
    """Close the account for good, if nothing is left in it, or with a write-off of what is."""
    closed = await close_account(
        call.ledger,
        call.account,
        write_off=body.write_off,
        reason=body.reason or "",
        context=call.audited_context(),
        durability=call.durability,
    )
    return Answer(200, account_answer(closed))
