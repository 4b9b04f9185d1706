"""What is owed, over HTTP: lists, and collecting what was not paid. For unrestricted admins."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from holdfast import debts
from holdfast.http import answers
from holdfast.http.admin import unrestricted
from holdfast.http.answers import (
    Answer,
    ListAnswer,
    MovementAnswer,
    movement_answer,
    time_text,
)
from holdfast.http.bodies import Form, Page
from holdfast.http.fields import Amount, Id
from holdfast.http.requests import Call
from holdfast.model import Status


class DebtsPage(Page):
    """Which debts to list."""

    account: Annotated[Id | None, Field(description="only this account's")] = None


class DebtAnswer(TypedDict):
    """An account that owes."""

    account: str
    status: Status
    debt: answers.Amount
    available: answers.Amount
    held: answers.Amount


class UncollectedAnswer(TypedDict):
    """A hold or charge that took less than its work cost."""

    account: str
    of: Annotated[str, Field(description="the hold or charge")]
    kind: str
    member: str | None
    uncollected: Annotated[int, Field(description="microcredits that it could not take")]
    collected: Annotated[int, Field(description="microcredits of them that were taken since")]
    at: answers.Time


class Collect(Form):
    """What to collect."""

    account: Id
    of: Annotated[Id, Field(description="the hold or charge that took less than it should")]
    amount: Annotated[Amount | None, Field(description="microcredits; all that is left")] = None


async def list_debts(call: Call, query: DebtsPage) -> Answer[ListAnswer[DebtAnswer]]:
    """Accounts in debt, by id."""
    unrestricted(call)
    page = await debts.debts(
        call.ledger.pool, account=query.account, after=query.after, limit=query.limit
    )
    data: list[DebtAnswer] = [
        {
            "account": each.account,
            "status": each.status,  # type: ignore[typeddict-item]  # the table has no other
            "debt": each.debt,
            "available": each.available,
            "held": each.held,
        }
        for each in page.data
    ]
    return Answer(200, {"data": data, "next": page.next})


async def list_uncollected(call: Call, query: DebtsPage) -> Answer[ListAnswer[UncollectedAnswer]]:
    """Holds and charges that took less than their work cost, and were not collected since."""
    unrestricted(call)
    page = await debts.uncollected(
        call.ledger.pool, account=query.account, after=query.after, limit=query.limit
    )
    data: list[UncollectedAnswer] = [
        {
            "account": each.account,
            "of": each.of,
            "kind": each.kind,
            "member": each.member,
            "uncollected": each.uncollected,
            "collected": each.collected,
            "at": time_text(each.at_ms),
        }
        for each in page.data
    ]
    return Answer(200, {"data": data, "next": page.next})


async def collect(call: Call, body: Collect) -> Answer[MovementAnswer]:
    """Charge what a hold or charge could not take: at most that, over all calls."""
    unrestricted(call)
    taken = await debts.collect(
        call.ledger,
        body.account,
        body.of,
        body.amount,
        key=call.key,
        by=call.caller(),
        context=call.context(f"collects {body.of}"),
    )
    return Answer(200 if taken.replayed else 201, movement_answer(taken), taken.replayed)
