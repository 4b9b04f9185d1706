"""The periods of allowances, without a store: no gap, no double, no anniversary that drifts."""

from calendar import monthrange
from datetime import date, timedelta
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settlement.periods import Kind, Period, period_at, period_from, periods_until

DAYS = st.dates(date(1970, 1, 1), date(2200, 12, 31))
KINDS: st.SearchStrategy[Kind] = st.sampled_from(get_args(Kind))


@given(KINDS, DAYS, DAYS)
def test_every_day_is_in_exactly_one_period(kind: Kind, anchor: date, day: date) -> None:
    period = period_at(kind, anchor, day)
    assert period.start <= day < period.end
    assert period.days == period.whole_days
    assert period_at(kind, anchor, period.start) == period
    assert period_at(kind, anchor, period.end - timedelta(1)) == period
    assert period_at(kind, anchor, period.end).start == period.end
    assert 28 <= period.days <= 31


@given(DAYS, DAYS)
def test_an_anniversary_is_the_anchors_day_or_the_last_of_a_short_month(
    anchor: date, day: date
) -> None:
    start = period_at("anniversary", anchor, day).start
    assert start.day == min(anchor.day, monthrange(start.year, start.month)[1])


@given(KINDS, DAYS, DAYS, st.integers(0, 800))
def test_periods_follow_each_other_from_any_day(
    kind: Kind, anchor: date, start: date, days: int
) -> None:
    day = start + timedelta(days)
    found = periods_until(kind, anchor, start, day)
    assert found[0].start == start
    assert found[-1].start <= day < found[-1].end
    for before, after in pairwise(found):
        assert before.end == after.start
        assert after.days == after.whole_days
    # Taken in two steps, they are the same: how long nobody looked makes no difference.
    half = periods_until(kind, anchor, start, start + timedelta(days // 2))
    assert found == half + periods_until(kind, anchor, half[-1].end, day)


@given(KINDS, DAYS, DAYS, st.integers(1, 9 * 10**15))
def test_a_period_that_is_cut_short_gives_its_share(
    kind: Kind, anchor: date, start: date, credits: int
) -> None:
    period = period_from(kind, anchor, start)
    share = period.share_of(credits)
    assert 1 <= share <= credits
    assert (share == credits) or period.days < period.whole_days
    if period.days == period.whole_days:
        assert share == credits
    assert share * period.whole_days <= max(credits * period.days, period.whole_days)


@pytest.mark.parametrize(
    ("anchor", "starts"),
    [
        ("2026-01-31", ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"]),
        ("2028-01-30", ["2028-01-30", "2028-02-29", "2028-03-30", "2028-04-30", "2028-05-30"]),
        ("2026-12-15", ["2026-12-15", "2027-01-15", "2027-02-15", "2027-03-15", "2027-04-15"]),
    ],
)
def test_months_that_are_short_do_not_move_those_after_them(anchor: str, starts: list[str]) -> None:
    first = date.fromisoformat(anchor)
    found = periods_until("anniversary", first, first, date.fromisoformat(starts[-1]))
    assert [period.start.isoformat() for period in found] == starts


def test_a_calendar_month_does_not_care_for_the_anchor() -> None:
    assert period_at("month", date(2020, 2, 29), date(2026, 2, 10)) == Period(
        date(2026, 2, 1), date(2026, 3, 1), 28
    )


def test_what_has_not_begun_has_no_periods() -> None:
    assert periods_until("month", date(2026, 1, 1), date(2026, 3, 1), date(2026, 2, 28)) == []


def test_half_a_month_gives_half() -> None:
    cut = period_from("month", date(2026, 1, 1), date(2026, 4, 16))
    assert (cut.days, cut.whole_days) == (15, 30)
    assert cut.share_of(1_000_001) == 500_000
