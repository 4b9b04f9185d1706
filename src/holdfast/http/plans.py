"""Plans and allowances over HTTP: their forms, answers and endpoints."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from holdfast import allowances, plans
from holdfast.allowances import Allowance, OutboxState, Refresh
from holdfast.http.admin import unrestricted
from holdfast.http.answers import Amount, Answer, ListAnswer, Time, time_text
from holdfast.http.bodies import Form, NoQuery, Page
from holdfast.http.fields import Amount as SentAmount
from holdfast.http.fields import AmountOrZero, Count, Day, Id, Models
from holdfast.http.requests import Call
from holdfast.plans import Definition, Plan

Kind = Literal["month", "anniversary"]
DayText = Annotated[str, Field(json_schema_extra={"format": "date"}, description="a UTC day")]


# ── forms ────────────────────────────────────────────────────────────────────────────────────────


class NewPlan(Form):
    """A plan, whole: what is left out is not in it. A limit that is null does not bind."""

    credits_per_period: Annotated[
        SentAmount | None, Field(description="microcredits given by period; null: none")
    ] = None
    period: Annotated[
        Kind,
        Field(description="a calendar month, or a month from the day on which the account began"),
    ] = "month"
    rollover_cap: Annotated[
        AmountOrZero | None, Field(description="the most that one period leaves to the next")
    ] = None
    max_hold: AmountOrZero | None = None
    daily_limit: AmountOrZero | None = None
    monthly_limit: AmountOrZero | None = None
    max_open_holds: Count | None = None
    models: Models | None = None
    paid: Annotated[bool | None, Field(description="whoever is on it pays: he is not on trial")] = (
        None
    )


class NewAllowance(Form):
    """The plan that gives an account its credits."""

    plan: Id
    anchor: Annotated[
        Day | None,
        Field(description="the UTC day whose anniversaries begin periods; that of its opening"),
    ] = None


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


class PlanAnswer(TypedDict):
    """A plan. `revision` counts the changes of its definition."""

    name: str
    revision: int
    credits_per_period: Amount | None
    period: Kind
    rollover_cap: Amount
    max_hold: Amount | None
    daily_limit: Amount | None
    monthly_limit: Amount | None
    max_open_holds: int | None
    models: list[str] | None
    paid: Annotated[bool, Field(description="whoever is on it pays: he is not on trial")]
    created_at: Time
    updated_at: Time


class RefreshAnswer(TypedDict):
    """One period. `credits` is what the plan gives for it, `granted` 0 where it was missed."""

    period_start: DayText
    period_end: Annotated[
        str, Field(json_schema_extra={"format": "date"}, description="the first day after it")
    ]
    plan: str
    credits: Amount
    granted: Amount
    rolled_over: Annotated[
        int | None, Field(description="microcredits; null until the period before is settled")
    ]
    missed: Annotated[bool, Field(description="it was over before any worker looked")]
    state: Annotated[OutboxState, Field(description="of its grants; applied: the journal has them")]
    at: Time


class AllowanceAnswer(TypedDict):
    """What an account is given by period, and when next; null in `stopped_at`: it goes on."""

    account: str
    plan: str
    credits_per_period: Amount | None
    period: Kind
    rollover_cap: Amount
    anchor: DayText | None
    next_at: Annotated[str, Field(json_schema_extra={"format": "date"})]
    started_at: Time
    stopped_at: Time | None


class AllowanceHistoryAnswer(AllowanceAnswer):
    """The same with its periods, newest first."""

    history: ListAnswer[RefreshAnswer]


def _time(at: datetime) -> str:
    return time_text(round(at.timestamp() * 1000))


def plan_answer(plan: Plan) -> PlanAnswer:
    """The plan as GET and PUT answer it."""
    made = plan.definition
    return {
        "name": plan.name,
        "revision": plan.revision,
        "credits_per_period": made.credits_per_period,
        "period": made.period,
        "rollover_cap": made.rollover_cap,
        "max_hold": made.max_hold,
        "daily_limit": made.daily_limit,
        "monthly_limit": made.monthly_limit,
        "max_open_holds": made.max_open_holds,
        "models": made.models,
        "paid": made.paid,
        "created_at": _time(plan.created_at),
        "updated_at": _time(plan.updated_at),
    }


def refresh_answer(refresh: Refresh) -> RefreshAnswer:
    """One period of the history."""
    return {
        "period_start": refresh.period_start.isoformat(),
        "period_end": refresh.period_end.isoformat(),
        "plan": refresh.plan,
        "credits": refresh.credits,
        "granted": refresh.granted,
        "rolled_over": refresh.rolled_over,
        "missed": refresh.missed,
        "state": refresh.state,
        "at": _time(refresh.at),
    }


def allowance_answer(allowance: Allowance) -> AllowanceAnswer:
    """The allowance, without its periods."""
    anchor, stopped = allowance.anchor, allowance.stopped_at
    return {
        "account": allowance.account,
        "plan": allowance.plan,
        "credits_per_period": allowance.credits_per_period,
        "period": allowance.period,
        "rollover_cap": allowance.rollover_cap,
        "anchor": None if anchor is None else anchor.isoformat(),
        "next_at": allowance.next_at.isoformat(),
        "started_at": _time(allowance.started_at),
        "stopped_at": None if stopped is None else _time(stopped),
    }


# ── plans ────────────────────────────────────────────────────────────────────────────────────────


async def put_plan(call: Call, body: NewPlan) -> Answer[PlanAnswer]:
    """Define a plan (201), or define it anew (200).

    Accounts on it get its new limits within seconds, but for limits that were set on an account
    apart from the plan. What it gives changes with the next period of each.
    """
    unrestricted(call)
    sent = body.model_dump(exclude_none=True)
    plan, made = await plans.put(call.ledger.pool, call.name, Definition(**sent), by=call.caller())
    return Answer(201 if made else 200, plan_answer(plan))


async def get_plan(call: Call, query: NoQuery) -> Answer[PlanAnswer]:
    """A plan by its name."""
    unrestricted(call)
    return Answer(200, plan_answer(await plans.find(call.ledger.pool, call.name)))


async def list_plans(call: Call, query: Page) -> Answer[ListAnswer[PlanAnswer]]:
    """All plans by name."""
    unrestricted(call)
    found = await plans.page(call.ledger.pool, query.after, query.limit)
    return Answer(200, {"data": [plan_answer(each) for each in found.data], "next": found.next})


# ── allowances ───────────────────────────────────────────────────────────────────────────────────


async def put_allowance(call: Call, body: NewAllowance) -> Answer[AllowanceAnswer]:
    """Assign a plan that gives credits, and let them begin with the period under way.

    For an account that is given credits already, plan and anchor count from its next period on.
    The account must exist.
    """
    pool = call.ledger.pool
    await call.ledger.get_account(call.account)  # PUT of an account opens one; this must not
    await plans.assign(
        call.ledger,
        call.account,
        {"plan": body.plan},
        context=call.audited_context(),
        by=call.caller(),
        durability=call.durability,
        anchor=None if body.anchor is None else date.fromisoformat(body.anchor),
        needs_credits=True,
    )
    return Answer(200, allowance_answer(await allowances.find(pool, call.account)))


async def get_allowance(call: Call, query: Page) -> Answer[AllowanceHistoryAnswer]:
    """The account's allowance and a page of its periods, newest first."""
    pool = call.ledger.pool
    found = await allowances.find(pool, call.account)
    past = await allowances.history(pool, call.account, after=query.after, limit=query.limit)
    history: ListAnswer[RefreshAnswer] = {
        "data": [refresh_answer(each) for each in past.data],
        "next": past.next,
    }
    return Answer(200, {**allowance_answer(found), "history": history})


async def stop_allowance(call: Call, query: NoQuery) -> Answer[AllowanceAnswer]:
    """Give nothing more. What was given stays until it expires; the plan's limits stay."""
    stopped = await allowances.stop(call.ledger.pool, call.account, by=call.caller())
    return Answer(200, allowance_answer(stopped))


async def list_allowances(call: Call, query: Page) -> Answer[ListAnswer[AllowanceAnswer]]:
    """All allowances by account, stopped ones too."""
    unrestricted(call)
    found = await allowances.page(call.ledger.pool, query.after, query.limit)
    data = [allowance_answer(each) for each in found.data]
    return Answer(200, {"data": data, "next": found.next})
