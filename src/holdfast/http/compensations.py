"""Compensations over HTTP: credits owed for failed work, for callers with `credit` or `admin`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field, StringConstraints
from typing_extensions import TypedDict

from holdfast import compensations
from holdfast.compensations import ORIGIN_MAX, REASON_MAX, Compensation, State
from holdfast.compensator import Compensator
from holdfast.errors import UnknownAccount
from holdfast.http.admin import unrestricted
from holdfast.http.answers import Amount as AmountAnswer
from holdfast.http.answers import Answer, ListAnswer, time_text
from holdfast.http.answers import Time as TimeAnswer
from holdfast.http.bodies import Form, Page
from holdfast.http.fields import Amount, Id
from holdfast.http.requests import Call
from holdfast.keys import ID_PATTERN

# ── what is sent ─────────────────────────────────────────────────────────────────────────────────


class NewCompensation(Form):
    """Credits that an account is owed."""

    account: Id
    origin: Annotated[
        str,
        StringConstraints(pattern=f"^{ID_PATTERN}$", max_length=ORIGIN_MAX),
        Field(description="what failed, by a name of your own: it is compensated once"),
    ]
    of: Annotated[
        Id | None,
        Field(description="the hold or charge to refund; left out, the amount is granted"),
    ] = None
    amount: Amount
    reason: Annotated[
        str,
        StringConstraints(min_length=1, max_length=REASON_MAX),
        Field(description="kept with the entry"),
    ]


class Run(Form):
    """Nothing to say."""


class CompensationsPage(Page):
    """Which compensations to list."""

    state: State | None = None
    account: Annotated[str | None, Field(pattern=f"^{ID_PATTERN}$")] = None


# ── what is answered ─────────────────────────────────────────────────────────────────────────────


class CompensationAnswer(TypedDict):
    """What an account is owed, and what became of it."""

    id: int
    account: str
    origin: str
    key: Annotated[str, Field(description="the idempotency key of its refund or grant")]
    of: Annotated[str | None, Field(description="what is refunded; null: it is granted")]
    amount: AmountAnswer
    reason: str
    actor: str
    state: State
    attempts: Annotated[int, Field(description="a retry turns them back to 1")]
    next_try_at: Annotated[TimeAnswer | None, Field(description="null: it is not tried again")]
    error: Annotated[str | None, Field(description="what the last try met")]
    created_at: TimeAnswer
    applied_at: TimeAnswer | None


def compensation_answer(owed: Compensation) -> CompensationAnswer:
    """One compensation."""
    applied = owed.applied_at
    return {
        "id": owed.id,
        "account": owed.account,
        "origin": owed.origin,
        "key": owed.key,
        "of": owed.of,
        "amount": owed.amount,
        "reason": owed.reason,
        "actor": owed.actor,
        "state": owed.state,
        "attempts": owed.attempts,
        "next_try_at": _text(owed.next_try_at) if owed.state == "pending" else None,
        "error": owed.error,
        "created_at": _text(owed.created_at),
        "applied_at": None if applied is None else _text(applied),
    }


def _text(at: datetime) -> str:
    return time_text(round(at.timestamp() * 1000))


class RunAnswer(TypedDict):
    """What came of a run."""

    tried: Annotated[int, Field(description="each once, at most 100; there may be more")]
    retries: Annotated[int, Field(description="of these, how many had been tried before")]
    applied: int
    waiting: Annotated[int, Field(description="to be tried again later")]
    failed: Annotated[int, Field(description="given up, until they are tried anew")]


# ── endpoints ────────────────────────────────────────────────────────────────────────────────────


async def add(call: Call, body: NewCompensation) -> Answer[CompensationAnswer]:
    """Owe an account credits for work that failed. They come within a second or so.

    An origin is compensated once: the same request again answers what became of the first one.
    """
    if not call.api_key.covers(body.account):
        raise UnknownAccount(body.account, mark=0)  # as if it were not there
    owed, new = await compensations.add(
        call.ledger.pool,
        account=body.account,
        origin=body.origin,
        of=body.of,
        amount=body.amount,
        reason=body.reason,
        by=call.caller(),
    )
    return Answer(201 if new else 200, compensation_answer(owed))


async def page(call: Call, query: CompensationsPage) -> Answer[ListAnswer[CompensationAnswer]]:
    """Compensations, oldest first, of all states and accounts or of one."""
    if query.account is None or not call.api_key.covers(query.account):
        unrestricted(call)
    found = await compensations.page(
        call.ledger.pool,
        state=query.state,
        account=query.account,
        after=query.after,
        limit=query.limit,
    )
    data = [compensation_answer(each) for each in found.data]
    return Answer(200, {"data": data, "next": found.next})


async def retry(call: Call, body: Run) -> Answer[CompensationAnswer]:
    """Have a compensation tried anew, at once. One that was applied stays as it is."""
    owed = await compensations.retry(
        call.ledger.pool, call.name, by=call.caller(), covers=call.api_key.covers
    )
    return Answer(200, compensation_answer(owed))


async def run(call: Call, body: Run) -> Answer[RunAnswer]:
    """Try what is pending now, due or not, each once: at most 100, for some five seconds."""
    unrestricted(call)
    tally = await Compensator(call.ledger.pool, call.ledger).run()
    call.service.telemetry.compensation_retries.inc(tally.retries)
    answer: RunAnswer = {
        "tried": tally.tried,
        "retries": tally.retries,
        "applied": tally.applied,
        "waiting": tally.waiting,
        "failed": tally.failed,
    }
    return Answer(200, answer)
