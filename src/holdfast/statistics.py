"""What accounts use, and how long their credits last, from the roll-ups of the settlement.

The table `usage` has a line for each account, UTC day, member and model. The transaction that
settles an entry adds to it, so it is as exact as the journal, and nothing here reads the journal.
Days are those of the settlement: `used` belongs to the day on which the hold was made, `spent` to
the day on which it was taken, `calls` to the day of the hold or charge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal, get_args

from holdfast.errors import InvalidRequest
from holdfast.lists import Page
from holdfast.postgres import Pool
from holdfast.queries import sql

Group = Literal["day", "member", "model"]
Level = Literal["ok", "low", "critical", "empty"]
GROUPS: Final[tuple[Group, ...]] = get_args(Group)

BASIS_DAYS: Final = 7
"""Full UTC days that a forecast looks back, besides the part of today that has passed."""

_DAY_MS: Final = 86_400_000
# A century: beyond it, and long before a calendar ends, "never" is the better answer.
_NEVER_MS: Final = 36_525 * _DAY_MS


@dataclass(frozen=True, slots=True)
class Usage:
    """One line: sums in microcredits, of what `groups` name; '' is no member, no model.

    `used` is what limits count: open holds, and what was taken of those that ended. `spent` was
    taken for good, whether or not it was refunded later. `calls` counts holds and charges.
    """

    groups: tuple[Group, ...]
    day: int
    """YYYYMMDD; 0 where it is not grouped by."""
    member: str
    model: str
    used: int
    spent: int
    calls: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """How fast an account spends, and when nothing is left at that rate."""

    available: int
    balance_level: Level | None
    """What was last told of the balance (docs/statistics.md); None without a `low_balance`."""
    burn_per_day: int
    basis_ms: int
    runs_out_ms: int | None


async def usage(
    pool: Pool,
    account: str,
    *,
    groups: Sequence[Group],
    first: date,
    last: date,
    member: str | None = None,
    model: str | None = None,
    after: str | None,
    limit: int,
) -> Page[Usage]:
    """What was used from UTC day `first` to `last`, both included, added up by `groups`.

    Lines come by day, member and model. With `member` or `model`, of that one alone; '' is none.
    """
    grouped = tuple(name for name in GROUPS if name in groups)
    place = (None, "", "") if after is None else _place(grouped, after)
    rows = await pool.fetch(
        *(sql("list_usage"), account, _number(first), _number(last), grouped, member, model),
        *(*place, limit + 1),
    )
    data = [Usage(grouped, *row.values()) for row in rows[:limit]]
    return Page(data, _cursor(data[-1]) if len(rows) > limit else None)


def _number(day: date) -> int:
    return day.year * 10_000 + day.month * 100 + day.day


def _cursor(line: Usage) -> str:
    return f"{','.join(line.groups)}~{line.day}~{line.member}~{line.model}"


def _place(grouped: tuple[Group, ...], after: str) -> tuple[int, str, str]:
    """Where a page ended. Raises InvalidRequest for a cursor of another list."""
    parts = after.split("~", 3)  # which no member contains; a model may, and is last
    digits = parts[1] if len(parts) == 4 else ""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 8) or "\0" in after:
        raise InvalidRequest.of_field("after", "must be `next` of the page before")
    if parts[0] != ",".join(grouped):
        raise InvalidRequest.of_field("after", "is of a list that is grouped otherwise")
    return int(digits), parts[2], parts[3]


async def forecast(pool: Pool, account: str, now: datetime | None = None) -> Forecast | None:
    """Burn rate and run-out of an account, as it was settled; None where it is not known.

    `now` stands for the clock (tests).
    """
    now = now or datetime.now(UTC)
    start = first_day(now)
    row = await pool.fetchrow(sql("forecast"), account, _number(start))
    if row is None:
        return None
    return project(
        row["available"], row["spent"], row["opened_ms"], _ms(now), level=row["balance_level"]
    )


def first_day(now: datetime) -> date:
    """The first day of the basis of a forecast that is made `now`."""
    return now.date() - timedelta(days=BASIS_DAYS)


def project(
    available: int, spent: int, opened_ms: int, now_ms: int, *, level: Level | None = None
) -> Forecast:
    """The forecast that follows from what was `spent` in the basis.

        basis        = now - the later of (midnight UTC seven days ago) and (the account's opening),
                       but at least one day
        burn_per_day = spent · day / basis, rounded up
        runs_out     = now + available · basis / spent; now, where nothing is available;
                       None where nothing is spent, or it lasts for more than a century

    `available` leaves out what is held and an overdraft, and foresees no grant and no expiry.
    """
    start_ms = (now_ms // _DAY_MS - BASIS_DAYS) * _DAY_MS
    basis_ms = max(now_ms - max(start_ms, opened_ms), _DAY_MS)
    if spent <= 0:
        return Forecast(available, level, 0, basis_ms, None)
    left_ms = max(available, 0) * basis_ms // spent
    return Forecast(
        available,
        level,
        -(-spent * _DAY_MS // basis_ms),
        basis_ms,
        now_ms + left_ms if left_ms <= _NEVER_MS else None,
    )


def _ms(at: datetime) -> int:
    return int(at.timestamp()) * 1000 + at.microsecond // 1000
