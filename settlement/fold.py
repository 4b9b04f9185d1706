"""What a batch of entries adds up to: pure, and the one place that knows what an entry means.

Entries are added in order. Several of one account collapse into one change of its row, a reserve
and its commit into one record. What can be checked without the tables is checked here: versions
without a gap, and balances that follow from each other; the statements of the journal check the
first of them against the tables. Accounts never span shards, so a fold may hold several shards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from settlement.reader import Entry

MEMBER_LIMITS: Final = ("daily_limit", "monthly_limit", "max_hold")
_DAY_MS: Final = 86_400_000


class Rejected(Exception):
    """An entry that cannot be applied: the tables or its own predecessors contradict it."""


@dataclass(slots=True)
class AccountChange:
    """What a batch does to one account: the sums of its deltas, and what stands after it."""

    account: str
    shard: int
    first_version: int
    version: int
    last_seq: int
    available: int
    held: int
    opened_ms: int | None = None
    """When it was opened, if this batch opens it."""
    last_grant_seq: int = 0
    last_refund_seq: int = 0
    by: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("base", "debt", "held", "granted", "refunded", "spent", "forfeited"), 0
        )
    )
    """The sums of what its deltas changed, by name."""
    settings: dict[str, str] | None = None
    grants_changed: bool = False

    @property
    def moved(self) -> int:
        """The change of `available` that the deltas imply (invariant 1)."""
        return movement(self.by)


@dataclass(slots=True)
class RecordChange:
    """What a batch does to one record: fields by name, '' where one is gone."""

    account: str
    key: str
    opened: int
    shard: int
    new: bool
    fields: dict[str, str]


@dataclass(slots=True)
class UsageChange:
    """What a batch adds to one line of usage. Amounts in microcredits."""

    used: int = 0
    spent: int = 0
    calls: int = 0


def movement(delta: dict[str, int]) -> int:
    """How far `available` moves where the other sums move by `delta` (invariant 1)."""
    get = delta.get
    return (
        get("granted", 0)
        + get("refunded", 0)
        - get("spent", 0)
        - get("forfeited", 0)
        - get("held", 0)
    )


@lru_cache(maxsize=64)
def _date(days: int) -> int:
    at = datetime.fromtimestamp(days * 86_400, UTC)
    return at.year * 10_000 + at.month * 100 + at.day


def utc_day(at_ms: int) -> int:
    """The UTC day of a time as Redis writes it: YYYYMMDD. Raises ValueError beyond year 9999."""
    try:
        return _date(at_ms // _DAY_MS)
    except (OverflowError, OSError) as error:
        raise ValueError(str(error)) from error


class Fold:
    """The changes of a batch, ready for the statements of the journal."""

    def __init__(self) -> None:
        self.accounts: dict[str, AccountChange] = {}
        self.records: dict[tuple[str, str, int], RecordChange] = {}
        self.grants: dict[tuple[str, str], tuple[int, int, int]] = {}
        """(account, grant) → expiry in ms, priority, what remains."""
        self.members: dict[tuple[str, str], tuple[int | None, ...]] = {}
        """(account, member) → its limits, in the order of MEMBER_LIMITS."""
        self.usage: dict[tuple[str, int, str, str], UsageChange] = {}
        """(account, day, member, model) → what is added."""

    def add(self, shard: int, entry: Entry) -> None:
        """Add the next entry of a shard. Raises Rejected; the fold is of no use after that."""
        if entry.error:
            raise Rejected(entry.error)
        try:
            change = self._balances(shard, entry)
            if entry.record is not None:
                self._record(shard, entry, entry.record)
            if entry.of_record is not None:
                self._target(shard, entry, entry.of_record)
            if entry.grants:
                self._grants(change, entry, entry.grants)
            if entry.settings:
                self._settings(change, entry, entry.settings)
            self._usage(entry)
        except (ValueError, TypeError, AttributeError) as error:
            raise Rejected(f"entry {entry.seq} cannot be read: {error}") from error

    def _balances(self, shard: int, entry: Entry) -> AccountChange:
        change = self.accounts.get(entry.account)
        if change is None:
            change = self.accounts[entry.account] = AccountChange(
                entry.account,
                shard,
                entry.version,
                entry.version,
                entry.seq,
                entry.available,
                entry.held,
            )
        else:
            if entry.version != change.version + 1:
                raise Rejected(
                    f"version {entry.version} of account {entry.account} follows {change.version}"
                )
            moved = movement(entry.delta)
            held = entry.delta.get("held", 0)
            if change.available + moved != entry.available or change.held + held != entry.held:
                raise Rejected(
                    f"entry {entry.seq} leaves available {entry.available} and held {entry.held};"
                    f" its delta leads to {change.available + moved} and {change.held + held}"
                )
            change.version = entry.version
            change.last_seq = entry.seq
            change.available = entry.available
            change.held = entry.held
        by = change.by
        for name, value in entry.delta.items():
            by[name] += value
        kind = entry.type
        if kind in ("grant", "adjust"):
            change.last_grant_seq = entry.seq
        elif kind == "refund":
            change.last_refund_seq = entry.seq
        elif kind == "open":
            if entry.version != 1 or entry.delta or entry.available or entry.held:
                raise Rejected(f"entry {entry.seq} opens account {entry.account} anew")
            change.opened_ms = entry.at
        return change

    def _record(self, shard: int, entry: Entry, fields: dict[str, str]) -> None:
        key, opened = entry.hold or entry.key, entry.opened
        if not key or opened is None:
            raise Rejected(f"entry {entry.seq} changes a record that it does not name")
        new = opened == entry.version
        self._change(RecordChange(entry.account, key, opened, shard, new, dict(fields)))

    def _target(self, shard: int, entry: Entry, fields: dict[str, str]) -> None:
        of, opened = entry.of, entry.of_opened
        if not of or opened is None:
            raise Rejected(f"entry {entry.seq} refunds what it does not name")
        self._change(RecordChange(entry.account, of, opened, shard, False, dict(fields)))

    def _change(self, change: RecordChange) -> None:
        name = (change.account, change.key, change.opened)
        record = self.records.setdefault(name, change)
        if record is not change:
            record.fields.update(change.fields)

    def _grants(self, change: AccountChange, entry: Entry, grants: dict[str, str]) -> None:
        change.grants_changed = True
        for grant, text in grants.items():
            expires, priority, remaining = text.split(" ")
            self.grants[(entry.account, grant)] = int(expires), int(priority), int(remaining)

    def _settings(self, change: AccountChange, entry: Entry, settings: dict[str, str]) -> None:
        if entry.member is not None:
            self.members[(entry.account, entry.member)] = tuple(
                int(text) if (text := settings.get(name, "")) else None for name in MEMBER_LIMITS
            )
        elif change.settings is None:
            change.settings = dict(settings)
        else:
            change.settings.update(settings)

    def _usage(self, entry: Entry) -> None:
        # What counts for limits belongs to the day of the hold, which the entry names; what was
        # taken belongs to the day on which it was.
        kind = entry.type
        if entry.used and entry.day is not None:
            self._used(entry, entry.day).used += entry.used
        if kind in ("reserve", "charge"):
            self._used(entry, utc_day(entry.at)).calls += 1
        if kind in ("commit", "charge") and entry.amount:
            self._used(entry, utc_day(entry.at)).spent += entry.amount

    def _used(self, entry: Entry, day: int) -> UsageChange:
        name = (entry.account, day, entry.member or "", entry.model)
        change = self.usage.get(name)
        if change is None:
            change = self.usage[name] = UsageChange()
        return change

    def check(self) -> None:
        """What must hold of the whole. Raises Rejected."""
        for change in self.accounts.values():
            # Without a change of its expiring grants, available moves with base and debt alone.
            by = change.by
            if not change.grants_changed and change.moved != by["base"] - by["debt"]:
                raise Rejected(
                    f"available of account {change.account} moves by {change.moved}, its base and"
                    f" debt by {by['base'] - by['debt']}"
                )
