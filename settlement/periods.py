"""The periods of allowances: pure arithmetic over UTC days.

    month          from the first of a month to the first of the next
    anniversary    from the anchor's day of a month to that of the next; a month that has no such
                   day takes its last one: 31 January, 28 February, 31 March

Anniversaries are counted from the anchor, never from the anniversary before, so that a short month
does not move those after it. A period begins where the one before it ended. Where a plan's kind of
period changed in between, that is no boundary of the new kind: then one period is cut short, and
gives the plan's credits in proportion to its days.
"""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass
from datetime import date
from typing import Literal

Kind = Literal["month", "anniversary"]


@dataclass(frozen=True, slots=True)
class Period:
    """UTC days from `start` to before `end`, and the days of a whole period of its kind."""

    start: date
    end: date
    whole_days: int

    @property
    def days(self) -> int:
        return (self.end - self.start).days

    def share_of(self, credits: int) -> int:
        """What it gives of a whole period's `credits`: by days, rounded down, at least 1."""
        return max(credits * self.days // self.whole_days, 1)


def boundary(kind: Kind, anchor: date, month: int) -> date:
    """Where the period of a month begins; months are counted from January of year 0."""
    year, index = divmod(month, 12)
    day = anchor.day if kind == "anniversary" else 1
    return date(year, index + 1, min(day, monthrange(year, index + 1)[1]))


def period_at(kind: Kind, anchor: date, day: date) -> Period:
    """The whole period that `day` falls into. Raises ValueError beyond the years 1 to 9999."""
    month = day.year * 12 + day.month - 1
    if day < boundary(kind, anchor, month):
        month -= 1
    start, end = boundary(kind, anchor, month), boundary(kind, anchor, month + 1)
    return Period(start, end, (end - start).days)


def period_from(kind: Kind, anchor: date, start: date) -> Period:
    """The period that begins on `start`, cut short where that is no boundary of its kind."""
    whole = period_at(kind, anchor, start)
    return Period(start, whole.end, whole.whole_days)


def periods_until(kind: Kind, anchor: date, start: date, day: date) -> list[Period]:
    """The periods from `start` on, one after the other, up to the one that `day` falls into.

    Empty where `day` is before `start`.
    """
    found = []
    while start <= day:  # a period has 28 days or more but for the first: 13 turns a year
        found.append(period_from(kind, anchor, start))
        start = found[-1].end
    return found
