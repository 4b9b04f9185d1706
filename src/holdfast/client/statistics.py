"""The calls that ask what an account used, and how long its credits last; see `calls`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Literal

from holdfast.client.call import Call, account_path, get, page_of, query_of
from holdfast.client.results import Forecast, Page, Usage

__all__ = ["Group", "forecast", "usage"]

Group = Literal["day", "member", "model"]


def usage(
    account: str,
    *,
    group_by: Group | Iterable[Group] | None = None,
    first: date | None = None,
    last: date | None = None,
    member: str | None = None,
    model: str | None = None,
    after: str | None = None,
    limit: int | None = None,
) -> Call[Page[Usage]]:
    """What the account used from the UTC day `first` to `last` (both included, at most 366 days).

    Added up by day, member or model, or by several of them: `group_by=("day", "model")`. With
    `member` or `model`, of that one alone; '' means of none. Without days: of the last month.
    """
    days = {
        name: day.isoformat() for name, day in (("from", first), ("to", last)) if day is not None
    }
    groups = group_by if group_by is None or isinstance(group_by, str) else ",".join(group_by)
    query = days | query_of(group_by=groups, member=member, model=model, after=after, limit=limit)
    return get("usage", f"{account_path(account)}/usage", page_of(Usage), query)


def forecast(account: str) -> Call[Forecast]:
    """How fast the account spends, and when it runs out of credits at that rate."""
    return get("forecast", f"{account_path(account)}/forecast", Forecast.read)
