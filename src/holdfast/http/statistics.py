"""What accounts use and how long their credits last, over HTTP: read from roll-ups in Postgres."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Final, NotRequired

from pydantic import AfterValidator, Field, StringConstraints
from typing_extensions import TypedDict

from holdfast import statistics
from holdfast.errors import InvalidRequest
from holdfast.http.answers import Amount, Answer, ListAnswer, Time, time_text
from holdfast.http.bodies import NoQuery, Page
from holdfast.http.fields import Day, Words
from holdfast.http.listings import known, page_answer
from holdfast.http.requests import Call
from holdfast.keys import ID_PATTERN
from holdfast.statistics import GROUPS, Level, Usage

MAX_DAYS: Final = 366
"""Days of one list: a leap year. What is read grows with them."""

# Without `from`: so many days before the last one, which makes it a month.
_DEFAULT_DAYS: Final = 30
_DAY_MS: Final = 86_400_000


def _checked_groups(text: str) -> str:
    names = text.split(",")
    if len(set(names)) != len(names) or not set(names) <= set(GROUPS):
        raise ValueError("must be day, member or model, or several of them, as in `day,model`")
    return text


class UsagePage(Page):
    """Which usage to list, and how it is grouped."""

    group_by: Annotated[
        str,
        AfterValidator(_checked_groups),
        Field(
            description="`day`, `member`, `model`, or several with commas: `day,model`",
            json_schema_extra={"pattern": "^(day|member|model)(,(day|member|model)){0,2}$"},
        ),
    ] = "day"
    from_: Annotated[
        Day | None, Field(alias="from", description="first UTC day; 30 days before `to`")
    ] = None
    to: Annotated[
        Day | None, Field(description="last UTC day, at most the 366th from `from` on; today")
    ] = None
    member: Annotated[
        Annotated[str, StringConstraints(pattern=f"^({ID_PATTERN})?$")] | None,
        Field(description="of this member alone; empty: of no member"),
    ] = None
    model: Annotated[Words | None, Field(description="of this model alone; empty: of no model")] = (
        None
    )

    def days(self) -> tuple[date, date]:
        """First and last day. Raises InvalidRequest where that is backwards or over MAX_DAYS."""
        last = date.fromisoformat(self.to) if self.to else datetime.now(UTC).date()
        first = date.fromordinal(max(last.toordinal() - _DEFAULT_DAYS, 1))
        if self.from_:
            first = date.fromisoformat(self.from_)
        if first > last:
            raise InvalidRequest.of_field("from", f"must not be after `to`, which is {last}")
        if (last - first).days >= MAX_DAYS:
            raise InvalidRequest.of_field(
                "from", f"must be at most {MAX_DAYS - 1} days before `to`, which is {last}"
            )
        return first, last


class UsageAnswer(TypedDict):
    """What was used by one day, member or model; those that it is grouped by are there."""

    day: NotRequired[Annotated[str, Field(json_schema_extra={"format": "date"})]]
    member: NotRequired[Annotated[str | None, Field(description="null: by no member")]]
    model: NotRequired[Annotated[str | None, Field(description="null: of no model")]]
    used: Annotated[
        int,
        Field(
            description="microcredits that limits count: open holds, and what was taken of those"
            " that ended, on the day on which the hold was made"
        ),
    ]
    spent: Annotated[
        int, Field(description="microcredits taken for good, on the day on which they were")
    ]
    calls: Annotated[int, Field(description="holds and charges, on the day they were made")]


def usage_answer(usage: Usage) -> UsageAnswer:
    """One line of usage."""
    answer: UsageAnswer = {"used": usage.used, "spent": usage.spent, "calls": usage.calls}
    if "day" in usage.groups:
        answer["day"] = (
            f"{usage.day // 10_000:04d}-{usage.day // 100 % 100:02d}-{usage.day % 100:02d}"
        )
    if "member" in usage.groups:
        answer["member"] = usage.member or None
    if "model" in usage.groups:
        answer["model"] = usage.model or None
    return answer


async def list_usage(call: Call, query: UsagePage) -> Answer[ListAnswer[UsageAnswer]]:
    """What the account used, added up by UTC day, member or model."""
    first, last = query.days()
    page = await statistics.usage(
        call.service.ledger.pool,
        call.account,
        groups=[name for name in GROUPS if name in query.group_by.split(",")],
        first=first,
        last=last,
        member=query.member,
        model=query.model,
        after=query.after,
        limit=query.limit,
    )
    await known(call, page)
    return page_answer(page, usage_answer)


class ForecastAnswer(TypedDict):
    """How fast an account spends, and when it has run out at that rate."""

    account: str
    available: Amount
    balance_level: Annotated[
        Level | None,
        Field(description="as last told by an event; null: the account has no `low_balance`"),
    ]
    burn_per_day: Annotated[
        int, Field(description="microcredits taken a day, on average of the last `basis_days`")
    ]
    basis_days: Annotated[
        float,
        Field(description="seven UTC days and today's part, or since it was opened; at least 1"),
    ]
    runs_out_at: Annotated[
        Time | None, Field(description="null: nothing is spent, or not within a century")
    ]


async def forecast(call: Call, query: NoQuery) -> Answer[ForecastAnswer]:
    """Burn rate of the account, and when it runs out of credits at that rate."""
    found = await statistics.forecast(call.service.ledger.pool, call.account)
    if found is None:
        # Redis knows an account that was opened a moment ago and has not settled.
        account = await call.ledger.get_account(call.account)
        now_ms = int(datetime.now(UTC).timestamp() * 1000)
        found = statistics.project(account.available, 0, now_ms, now_ms)
    return Answer(200, forecast_answer(call.account, found))


def forecast_answer(account: str, forecast: statistics.Forecast) -> ForecastAnswer:
    """A forecast as it is sent."""
    ends_ms = forecast.runs_out_ms
    return {
        "account": account,
        "available": forecast.available,
        "balance_level": forecast.balance_level,
        "burn_per_day": forecast.burn_per_day,
        "basis_days": round(forecast.basis_ms / _DAY_MS, 2),
        "runs_out_at": None if ends_ms is None else time_text(ends_ms),
    }
