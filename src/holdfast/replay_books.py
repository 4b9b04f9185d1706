"""A replay's own books, and their comparison with the service's.

The replay notes what was acknowledged to it, and nothing else. From that alone follow, for each
account, the balances that it must have now and the entries that its journal must hold, each once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from holdfast.client import Account, Entry

__all__ = ["AccountAudit", "AccountBooks", "CallRecord", "Difference", "Operation"]

Operation = Literal["reserve", "commit", "release"]


@dataclass(frozen=True)
class Difference:
    """Something that the service says otherwise than what it acknowledged."""

    account: str
    what: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.account}: {self.what}: expected {self.expected}, found {self.found}"


@dataclass(slots=True)
class CallRecord:
    """What was acknowledged for one call; amounts in microcredits, None where nothing was.

    `late`: the commit was told that the hold had expired; `expired`: the release was told so.
    `unknown`: the operation whose outcome was never learnt.
    """

    hold: str
    estimate: int
    cost: int
    reserved: int | None = None
    committed: int | None = None
    uncollected: int = 0
    released: int | None = None
    late: bool = False
    expired: bool = False
    unknown: Operation | None = None


@dataclass(slots=True)
class AccountBooks:
    """One account: what was granted to it, and its calls by hold."""

    account: str
    granted: int
    records: dict[str, CallRecord] = field(default_factory=dict)


class AccountAudit:
    """Folds the journal of one account beside its books: `take` each entry in order, then `close`.

    `version` is the last entry's; `differences` grows with what is found.
    """

    def __init__(self, books: AccountBooks) -> None:
        self.differences: list[Difference] = []
        self.version = 0
        self.entries = 0
        self._books = books
        self._available = 0
        self._held = 0
        self._astray = False
        self._opened = 0
        self._granted = 0
        # hold → type of entry → amount, as the journal has them.
        self._seen: dict[str, dict[str, int]] = {}

    def _differ(self, what: str, expected: object, found: object) -> None:
        self.differences.append(
            Difference(self._books.account, what, _words(expected), _words(found))
        )

    def take(self, entry: Entry) -> None:
        """One entry: is it due, once, with its amount, and does it lead to the balances it says?"""
        self.entries += 1
        self.version += 1
        if entry.version != self.version:
            self._differ("version of an entry", self.version, entry.version)
            self.version = entry.version
        move = self._move(entry)
        if move is None:
            self._available, self._held = entry.available, entry.held
            return
        self._available += move[0]
        self._held += move[1]
        there = (entry.available, entry.held)
        if there != (self._available, self._held) and not self._astray:
            # Only the first: every later one follows from it.
            self._astray = True
            here = f"{self._available:,} available, {self._held:,} held"
            self._differ(
                f"balances after entry {entry.version} ({entry.type})",
                here,
                f"{entry.available:,} available, {entry.held:,} held",
            )

    def _move(self, entry: Entry) -> tuple[int, int] | None:
        """How the entry moves available and held; None where that cannot be told."""
        amount = entry.amount
        if entry.type == "open":
            self._opened += 1
            return 0, 0
        if entry.type == "grant":
            self._granted += 1
            if amount != self._books.granted:
                self._differ("amount of the grant", self._books.granted, amount)
            return amount, 0
        record = self._books.records.get(entry.hold or entry.key or "")
        if record is None or entry.type not in {"reserve", "commit", "release", "expire"}:
            self._differ(f"entry {entry.version}", None, _title(entry))
            return None
        seen = self._seen.setdefault(record.hold, {})
        self._judge(entry, record, seen)
        set_aside = seen.get("reserve", 0)
        seen[entry.type] = amount
        if entry.type == "reserve":
            return -amount, amount
        if entry.type in {"release", "expire"}:
            return amount, -amount
        if "expire" in seen:
            return -amount, 0
        return set_aside - amount, -set_aside

    def _judge(self, entry: Entry, record: CallRecord, seen: Mapping[str, int]) -> None:
        """Whether an entry of a hold was acknowledged, with this amount, and comes once."""
        due: dict[str, int | None] = {
            "reserve": record.reserved,
            "commit": record.committed,
            "release": record.released,
            # A sweep may expire whatever was not ended; what was ended in time it must not touch.
            "expire": None if _ended_in_time(record) else record.reserved,
        }
        expected = due[entry.type]
        if entry.type in seen:
            self._differ(f"entry {entry.version}", None, f"a second {_title(entry)}")
        elif expected is not None:
            if entry.amount != expected:
                self._differ(f"amount of {_title(entry)}", expected, entry.amount)
        elif record.unknown is None:
            self._differ(f"entry {entry.version}", None, _title(entry))

    def close(self, found: Account) -> None:
        """What is missing, and whether the balances are those that the acknowledgements make."""
        if self._opened != 1:
            self._differ("entries of type open", 1, self._opened)
        if self._granted != 1:
            self._differ("entries of type grant", 1, self._granted)
        if self.entries != found.version:
            self._differ("entries in the journal", found.version, self.entries)
        spent = held = 0
        for record in self._books.records.values():
            self._complete(record)
            taken, open_amount = self._outcome(record)
            spent += taken
            held += open_amount
        granted = self._books.granted
        for what, expected, value in (
            ("granted", granted, found.granted),
            ("spent", spent, found.spent),
            ("held", held, found.held),
            ("available", granted - spent - held, found.available),
        ):
            if expected != value:
                self._differ(what, expected, value)

    def _complete(self, record: CallRecord) -> None:
        seen = self._seen.get(record.hold, {})
        for kind, amount in (
            ("reserve", record.reserved),
            ("commit", record.committed),
            ("release", record.released),
            ("expire", record.reserved if record.late or record.expired else None),
        ):
            if amount is not None and kind not in seen:
                self._differ(f"{kind} of hold {record.hold}", amount, None)
        if record.unknown is not None:
            has_it = "the journal has it" if record.unknown in seen else "the journal lacks it"
            self._differ(
                f"{record.unknown} of hold {record.hold}",
                "an outcome",
                f"none was ever answered ({has_it})",
            )

    def _outcome(self, record: CallRecord) -> tuple[int, int]:
        """What the call took and what it still holds. What is unknown is as the journal says."""
        seen = self._seen.get(record.hold, {})
        reserved, committed, released = record.reserved, record.committed, record.released
        if record.unknown is not None:
            reserved = seen.get("reserve") if reserved is None else reserved
            committed = seen.get("commit") if committed is None else committed
            released = seen.get("release") if released is None else released
        if reserved is None:
            return 0, 0
        if committed is not None:
            return committed, 0
        ended = released is not None or record.expired or "expire" in seen
        return 0, 0 if ended else reserved


def _ended_in_time(record: CallRecord) -> bool:
    committed_in_time = record.committed is not None and not record.late
    return committed_in_time or record.released is not None


def _title(entry: Entry) -> str:
    return f"{entry.type} of hold {entry.hold or entry.key}, {entry.amount:,}"


def _words(value: object) -> str:
    if value is None:
        return "nothing"
    return f"{value:,}" if isinstance(value, int) else str(value)
