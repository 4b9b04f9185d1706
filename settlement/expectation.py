"""What Redis must have of an account: the tables at a mark, and the entries behind it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from settlement.fold import MEMBER_LIMITS, Fold
from settlement.reader import Entry

BALANCES: Final = (
    *("available", "held", "base", "debt"),
    *("granted", "refunded", "spent", "forfeited"),
)
_SEQS: Final = ("last_grant_seq", "last_refund_seq")
_LIMITS: Final = (
    *("overdraft_limit", "daily_limit", "monthly_limit", "max_hold", "max_open_holds"),
    "low_balance",
)
_SETTINGS: Final = (*_LIMITS, "plan", "models", "metadata", "status")
_NO_LIMITS: Final = "- - -"

Record = dict[str, str]


@dataclass(slots=True)
class Live:
    """An account as its keys in Redis have it. Empty `acct`: it is not there."""

    acct: dict[str, str]
    opens: dict[str, int]
    """Open holds, and their deadlines in ms."""
    members: dict[str, str]
    due_ms: float | None
    expires: bool = False
    """Whether a key that money depends on has a time to live."""
    records: dict[str, Record] = field(default_factory=dict)

    @property
    def version(self) -> int:
        return int(self.acct.get("version", 0))


@dataclass(slots=True)
class Settled:
    """An account as the tables have it at `mark`; no row where they do not."""

    row: Mapping[str, Any] | None
    grants: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """id → expiry in ms, priority, what remains."""
    members: dict[str, str] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)

    @property
    def version(self) -> int:
        return 0 if self.row is None else int(self.row["version"])


@dataclass(slots=True)
class Expectation:
    """The tables and the unsettled entries of one account, added up."""

    numbers: dict[str, int]
    texts: dict[str, str]
    """Settings that are set."""
    grants: dict[str, tuple[int, int, int]]
    members: dict[str, str]
    records: dict[str, Record]

    def opens(self) -> dict[str, Record]:
        """The open holds."""
        return {key: r for key, r in self.records.items() if r.get("state") == "held"}

    def next_due_ms(self) -> int | None:
        """The first deadline of an open hold, or expiry of a grant."""
        times = [int(record["deadline"]) for record in self.opens().values()]
        times += [expires for expires, _, _ in self.grants.values()]
        return min(times, default=None)


def expect(settled: Settled, account: str, fold: Fold) -> Expectation:
    """Add to the tables what a fold of this account's unsettled entries changes."""
    row = settled.row
    names = (*BALANCES, "version", "last_seq", *_SEQS)
    numbers = {name: 0 if row is None else int(row[name]) for name in names}
    texts = {} if row is None else {n: str(row[n]) for n in _SETTINGS if row[n] is not None}
    change = fold.accounts.get(account)
    if change is not None:
        for name, value in change.by.items():
            numbers[name] += value
        numbers["available"] += change.moved
        numbers["version"], numbers["last_seq"] = change.version, change.last_seq
        for name, seq in zip(_SEQS, (change.last_grant_seq, change.last_refund_seq), strict=True):
            numbers[name] = max(numbers[name], seq)
        if change.opened_ms is not None:
            texts["status"] = "active"
        texts |= change.settings or {}
    grants = settled.grants | {g: v for (_, g), v in fold.grants.items()}
    limits = {member: limits_text(values) for (_, member), values in fold.members.items()}
    records = {key: dict(record) for key, record in settled.records.items()}
    for (_, key, _), changed in fold.records.items():
        record = {} if changed.new else records.get(key, {})
        records[key] = {n: v for n, v in (record | changed.fields).items() if v != ""}
    return Expectation(
        numbers,
        {name: text for name, text in texts.items() if text != ""},
        {grant: values for grant, values in grants.items() if values[2] > 0},
        settled.members | limits,
        records,
    )


def limits_text(values: Any) -> str:
    """A member's limits as Redis writes them: `daily monthly max_hold`, '-' for none."""
    return " ".join("-" if value is None else str(value) for value in values)


def limits_of(row: Mapping[str, Any]) -> str:
    """A member's limits, as Redis has them."""
    return limits_text(row[name] for name in MEMBER_LIMITS)


def fields_of(text: str) -> Record:
    """The fields of a record as the tables keep them."""
    fields: Record = orjson.loads(text)
    return fields


def in_tables(settled: Settled) -> list[tuple[str, str]]:
    """What the tables contradict themselves in (invariants 1 and 2): rule and detail."""
    row = settled.row
    if row is None:
        return []
    numbers = {name: int(row[name]) for name in BALANCES}
    grants = sum(remaining for _, _, remaining in settled.grants.values())
    found = _sums(numbers, grants, "Postgres")
    if grants != row["in_grants"]:
        found.append(
            ("grants", f"Postgres has {row['in_grants']} in grants, whose rows hold {grants}")
        )
    held = [r for r in settled.records.values() if r.get("state") == "held"]
    remaining = sum(int(record["remaining"]) for record in held)
    if remaining != numbers["held"]:
        found.append(("held", f"Postgres has held {numbers['held']}, its open holds {remaining}"))
    return found


def _sums(numbers: Mapping[str, int], grants: int, store: str) -> list[tuple[str, str]]:
    n = numbers
    found = []
    granted = n["granted"] + n["refunded"] - n["spent"] - n["forfeited"]
    if n["available"] + n["held"] != granted:
        found.append(
            (
                "sums",
                f"{store} has available + held = {n['available'] + n['held']}, and {granted} by"
                " what was granted, refunded, spent and forfeited",
            )
        )
    sources = n["base"] + grants - n["debt"]
    if n["available"] != sources:
        found.append(
            ("sums", f"{store} has available {n['available']}, and {sources} by its sources")
        )
    if n["debt"] and n["base"] + grants:
        found.append(("sums", f"{store} has funds and a debt at once"))
    return found


def in_redis(
    expected: Expectation, live: Live, later: Sequence[Entry], *, whole: bool
) -> list[tuple[str, str]]:
    """In what the keys of an account are not what is expected: rule and detail.

    `later` are entries that came after the account was read, and before all of its records were.
    `whole`: records that are over were read as well; they may have ended by their time to live.
    """
    found: list[tuple[str, str]] = []
    due, score = expected.next_due_ms(), live.due_ms
    if due is not None and (score is None or score > due):
        found.append(("due", f"it is due at {due}, Redis looks at {score}"))
    if not live.acct:
        return found
    acct = live.acct
    for name, number in expected.numbers.items():
        if acct.get(name, "0") != str(number):
            found.append(("balances", f"Redis has {name} {acct.get(name, 0)}, not {number}"))
    for name in _SETTINGS:
        if acct.get(name, "") != expected.texts.get(name, ""):
            was, wanted = acct.get(name), expected.texts.get(name)
            found.append(("settings", f"Redis has {name} {was!r}, not {wanted!r}"))
    grants = {n[2:]: tuple(map(int, v.split())) for n, v in acct.items() if n.startswith("g:")}
    if grants != expected.grants or int(acct.get("grants", 0)) != len(grants):
        found.append(("grants", f"Redis has the grants {grants}, not {expected.grants}"))
    remaining = sum(values[2] for values in grants.values() if len(values) == 3)
    found += _sums({name: int(acct.get(name, 0)) for name in BALANCES}, remaining, "Redis")
    if live.expires:
        found.append(("expires", "a key of it that money depends on has a time to live"))
    moved = _changes(later)
    found += _holds(expected, live, moved.keys())
    found += _records(expected, live, moved, whole)
    return found + _members(expected, live)


def _holds(expected: Expectation, live: Live, moved: Collection[str]) -> list[tuple[str, str]]:
    found = []
    wanted = {key: int(record["deadline"]) for key, record in expected.opens().items()}
    for key in sorted(wanted.keys() | live.opens.keys()):
        if wanted.get(key) != live.opens.get(key):
            what = f"hold {key} is open until {live.opens.get(key)}, not {wanted.get(key)}"
            found.append(("open", f"Redis says that {what}"))
    if not live.opens.keys() & moved:
        remaining = sum(int(live.records.get(key, {}).get("remaining", 0)) for key in live.opens)
        if remaining != int(live.acct.get("held", 0)):
            held = live.acct.get("held", 0)
            found.append(("held", f"Redis has held {held}, its open holds {remaining}"))
    return found


def _records(
    expected: Expectation, live: Live, moved: Mapping[str, list[Record]], whole: bool
) -> list[tuple[str, str]]:
    found = []
    for key, record in expected.records.items():
        is_open = record.get("state") == "held"
        there = live.records.get(key, {})
        if there == record or (not is_open and (not whole or not there)):
            continue
        if there not in _states(record, moved.get(key, [])):
            names = sorted(n for n in record.keys() | there.keys() if record.get(n) != there.get(n))
            what = f"Redis has another record of {key}: {', '.join(names)} differ"
            found.append(("record", what))
    return found


def _changes(later: Sequence[Entry]) -> dict[str, list[Record]]:
    """Per key what these entries change of its record, in order."""
    changes: dict[str, list[Record]] = {}
    for entry in later:
        key = entry.hold or entry.key
        if key is not None and entry.record is not None:
            changes.setdefault(key, []).append(entry.record)
        if entry.of is not None and entry.of_record is not None:
            changes.setdefault(entry.of, []).append(entry.of_record)
    return changes


def _states(record: Record, changes: Sequence[Record]) -> list[Record]:
    """The record after each of these changes."""
    states = []
    for change in changes:
        record = {name: text for name, text in (record | change).items() if text != ""}
        states.append(record)
    return states


def _members(expected: Expectation, live: Live) -> list[tuple[str, str]]:
    there = {n[: -len("/limits")]: v for n, v in live.members.items() if n.endswith("/limits")}
    return [
        ("members", f"Redis has the limits {there.get(member)} of {member}, not {wanted}")
        for member in sorted(there.keys() | expected.members.keys())
        if there.get(member, _NO_LIMITS) != (wanted := expected.members.get(member, _NO_LIMITS))
    ]
