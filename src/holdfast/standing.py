"""One account's values in both stores, a line each: for people to look at. Pure.

Three sides: what Redis has, what the tables have, and what Redis must have, which is the tables and
the entries that are not settled yet (settlement/expectation.py). A value that is what it must be is
`same` or `unsettled`; any other `differs`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from settlement.expectation import BALANCES, Expectation, Live, Record
from settlement.fold import Fold

Verdict = Literal["same", "unsettled", "differs"]
Kind = Literal["amount", "time", "text", "grant", "limits", "use", "record"]
"""How a value reads: a grant is "expires_ms priority remaining", limits and use are words too."""

Values = Mapping[str, str]

_AMOUNTS: Final = ("overdraft_limit", "daily_limit", "monthly_limit", "max_hold", "low_balance")
# Every value of an account, in the order in which it is shown.
_KINDS: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(("status", "version", "last_seq"), "text"),
    **dict.fromkeys((*BALANCES, *_AMOUNTS, "used_today", "used_this_month"), "amount"),
    **dict.fromkeys(("max_open_holds", "plan", "models", "metadata"), "text"),
    **dict.fromkeys(("last_grant_seq", "last_refund_seq"), "text"),
}
_RECORD_AMOUNTS: Final = frozenset({"amount", "committed", "remaining", "refunded", "uncollected"})
_RECORD_TIMES: Final = frozenset({"made", "deadline", "ended"})
_NO_LIMITS: Final = "- - -"


@dataclass(frozen=True, slots=True)
class Line:
    """One value in both stores.

    An empty text is a value that is not there; `redis` is None where Redis is not to have it.
    """

    name: str
    redis: str | None
    postgres: str
    kind: Kind
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Use:
    """What counts for the limits of today and of this month, in microcredits."""

    today: int = 0
    this_month: int = 0

    def and_unsettled(self, fold: Fold, today: int) -> Use:
        """With what the entries of a fold (of one account) add."""
        day = month = 0
        for (_, on, _, _), change in fold.usage.items():
            day += change.used if on == today else 0
            month += change.used if on // 100 == today // 100 else 0
        return Use(max(self.today + day, 0), max(self.this_month + month, 0))


def use_in_redis(acct: Mapping[str, str], today: int) -> Use:
    """The counters of the hash, as far as they are of this day and month."""
    day, month = acct.get("day") == str(today), acct.get("month") == str(today // 100)
    return Use(
        int(acct.get("used_day", 0)) if day else 0, int(acct.get("used_month", 0)) if month else 0
    )


def values_of(expected: Expectation, use: Use) -> Values:
    """The values of an account by the names under which they are compared."""
    values = {name: str(number) for name, number in expected.numbers.items()}
    values |= expected.texts
    for grant, (expires_ms, priority, remaining) in expected.grants.items():
        values[f"grant {grant}"] = f"{expires_ms} {priority} {remaining}"
    return values | {"used_today": str(use.today), "used_this_month": str(use.this_month)}


def values_in_redis(live: Live, use: Use) -> Values:
    """The same of its hash, where a number that was never needed is absent."""
    values = dict.fromkeys((*BALANCES, "last_grant_seq", "last_refund_seq"), "0")
    for name, text in live.acct.items():
        if name.startswith("g:"):
            values[f"grant {name[2:]}"] = text
        elif name in _KINDS:
            values[name] = text
    return values | {"used_today": str(use.today), "used_this_month": str(use.this_month)}


def compare(redis: Values | None, postgres: Values, expected: Values) -> list[Line]:
    """A line for each value that one side has; `redis` is None for an account that is not there."""
    sides = (redis, postgres, expected)
    grants = sorted(
        name for side in sides if side is not None for name in side if name.startswith("grant ")
    )
    names = dict.fromkeys((*_KINDS, *grants))
    lines = (_line(name, _KINDS.get(name, "grant"), *_texts(*sides, name)) for name in names)
    return [line for line in lines if line.redis or line.postgres or line.verdict != "same"]


def _texts(
    redis: Values | None, postgres: Values, expected: Values, name: str
) -> tuple[str | None, str, str]:
    there = None if redis is None else redis.get(name, "")
    return there, postgres.get(name, ""), expected.get(name, "")


def _line(name: str, kind: Kind, redis: str | None, postgres: str, expected: str) -> Line:
    verdict: Verdict = "same"
    if redis is not None and redis != expected:
        verdict = "differs"
    elif redis is not None and redis != postgres:
        verdict = "unsettled"
    return Line(name, redis, postgres, kind, verdict)


def compare_members(live: Live, postgres: Expectation, expected: Expectation) -> list[Line]:
    """The limits of each member."""
    there = {n.removesuffix("/limits"): v for n, v in live.members.items() if n.endswith("/limits")}
    lines = []
    for member in sorted(there.keys() | postgres.members.keys() | expected.members.keys()):
        texts = [
            side.get(member, _NO_LIMITS) for side in (there, postgres.members, expected.members)
        ]
        redis = texts[0] if live.acct else None
        lines.append(_line(f"member {member}", "limits", redis, *texts[1:]))
    return lines


def compare_records(
    live: Live, postgres: Expectation, expected: Expectation, moved: Collection[str]
) -> list[Line]:
    """A line for each record that is open or not the same, and one for each field that differs.

    What has `moved` since the account was read is left out.
    """
    lines: list[Line] = []
    keys = live.records.keys() | postgres.records.keys() | expected.records.keys()
    for key in sorted(keys - set(moved)):
        wanted, there = expected.records.get(key, {}), live.records.get(key, {})
        before = postgres.records.get(key, {})
        is_open = "held" in (wanted.get("state"), there.get("state"))
        # What is over leaves Redis when its time has come.
        redis = there if live.acct and (there or is_open) else None
        some = wanted or there or before
        name = f"{some.get('kind', 'record')} {key}"
        told = None if redis is None else _told(redis)
        first = _line(name, "record", told, _told(before), _told(wanted))
        fields = [
            line
            for each in sorted(there.keys() | wanted.keys())
            if (
                line := _line(
                    f"{name}: {each}", _record_kind(each), *_texts(redis, before, wanted, each)
                )
            ).verdict
            == "differs"
        ]
        if is_open or fields or first.verdict != "same":
            lines += [first, *fields]
    return lines + _compare_deadlines(live, postgres, expected)


def _compare_deadlines(live: Live, postgres: Expectation, expected: Expectation) -> list[Line]:
    """Where the index of open holds says something else than their records."""
    if not live.acct:
        return []
    wanted, before = expected.opens(), postgres.opens()
    lines = []
    for key in sorted(wanted.keys() | live.opens.keys()):
        redis = str(live.opens.get(key, ""))
        texts = (side.get(key, {}).get("deadline", "") for side in (before, wanted))
        line = _line(f"open hold {key}", "time", redis, *texts)
        if line.verdict == "differs":
            lines.append(line)
    return lines


def _record_kind(name: str) -> Kind:
    if name in _RECORD_AMOUNTS:
        return "amount"
    return "time" if name in _RECORD_TIMES else "text"


def _told(fields: Record) -> str:
    """A record in a few words."""
    words = [fields["state"]] if "state" in fields else []
    for name in ("amount", "remaining", "committed", "refunded", "uncollected"):
        if fields.get(name, "0") != "0":
            words.append(f"{name} {fields[name]}")
    return ", ".join(words)
