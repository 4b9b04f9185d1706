"""Trials over HTTP: accounts that pay nothing, up to a limit."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from holdfast import trials
from holdfast.http.admin import unrestricted
from holdfast.http.answers import Amount as AmountAnswer
from holdfast.http.answers import Answer, ListAnswer, time_text
from holdfast.http.answers import Time as TimeAnswer
from holdfast.http.bodies import Form, NoQuery, Page
from holdfast.http.fields import Amount, Time, Words, time_at
from holdfast.http.requests import Call
from holdfast.trials import Sign, State, Trial

# ── what is sent ─────────────────────────────────────────────────────────────────────────────────


class NewTrial(Form):
    """What an account may spend without paying."""

    spending_limit: Amount
    expires_at: Annotated[
        Time | None, Field(description="when what is left expires; left out: never")
    ] = None


class EndTrial(Form):
    """Why a trial ends."""

    reason: Annotated[Words | None, Field(description="kept with the trial, and audited")] = None


class TrialsPage(Page):
    """Which trials to list."""

    state: State | None = None


# ── what is answered ─────────────────────────────────────────────────────────────────────────────


class TrialAnswer(TypedDict):
    """The one trial of an account. What is left of its credits is among the account's."""

    account: str
    spending_limit: AmountAnswer
    expires_at: TimeAnswer | None
    state: Annotated[State, Field(description="overridden: by the signs that are named")]
    granted: Annotated[
        Literal["pending", "applied", "failed"],
        Field(description="its grant; applied: the journal has it"),
    ]
    started_at: TimeAnswer
    ended_at: TimeAnswer | None
    ended_by: Annotated[str | None, Field(description="system: a sign, or its expiry")]
    reason: str | None
    signs: Annotated[list[Sign], Field(description="what says that the account pays")]


def trial_answer(trial: Trial) -> TrialAnswer:
    """One trial."""
    return {
        "account": trial.account,
        "spending_limit": trial.spending_limit,
        "expires_at": _time(trial.expires_at),
        "state": trial.state,
        "granted": trial.granted,
        "started_at": _text(trial.started_at),
        "ended_at": _time(trial.ended_at),
        "ended_by": trial.ended_by,
        "reason": trial.reason,
        "signs": trial.signs,
    }


def _text(at: datetime) -> str:
    return time_text(round(at.timestamp() * 1000))


def _time(at: datetime | None) -> str | None:
    return None if at is None else _text(at)


# ── endpoints ────────────────────────────────────────────────────────────────────────────────────


async def start_trial(call: Call, body: NewTrial) -> Answer[TrialAnswer]:
    """Start the trial of an account (201): it is granted the limit, within a second or so.

    An account has one trial, ever: the same request again answers what became of it (200).
    """
    trial, new = await trials.start(
        call.ledger,
        call.account,
        body.spending_limit,
        expires_at=None if body.expires_at is None else time_at(body.expires_at),
        by=call.caller(),
    )
    return Answer(201 if new else 200, trial_answer(trial), replayed=not new)


async def get_trial(call: Call, query: NoQuery) -> Answer[TrialAnswer]:
    """The trial of an account, also one that is over."""
    return Answer(200, trial_answer(await trials.find(call.ledger.pool, call.account)))


async def end_trial(call: Call, query: EndTrial) -> Answer[TrialAnswer]:
    """End a trial. The account keeps its credits. One that is over already stays as it is."""
    ended = await trials.end(call.ledger.pool, call.account, reason=query.reason, by=call.caller())
    return Answer(200, trial_answer(ended))


async def list_trials(call: Call, query: TrialsPage) -> Answer[ListAnswer[TrialAnswer]]:
    """Trials by account, of all states or of one."""
    unrestricted(call)
    found = await trials.page(
        call.ledger.pool, state=query.state, after=query.after, limit=query.limit
    )
    return Answer(200, {"data": [trial_answer(each) for each in found.data], "next": found.next})
