"""What was asked of a service, and what it answered: the evidence that a run is judged by.

    history = History()
    await load([place.url], place.key, history, seed=7, operations=2_000)
    history.note("redis killed")
    history.dump(run.history)          # one JSON object a line; `History.read` has it again

A history has every operation from the moment it is asked, so that what was never answered is there
too. `Tally` is a history for runs of millions: it keeps sums instead of operations.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

__all__ = ["History", "Kind", "Met", "Note", "Operation", "Outcome", "Tally", "no_effect"]

Kind = Literal["grant", "reserve", "commit", "partial", "release", "extend", "charge", "refund"]

Outcome = Literal["ok", "refused", "unknown"]
"""ok: it happened. refused: the contract says that it did not. unknown: one or the other."""


@dataclass(slots=True)
class Operation:
    """One operation, over all its attempts. Amounts in microcredits, times by monotonic_ns."""

    id: int
    """Its place in the history."""
    kind: Kind
    account: str
    key: str
    """Its Idempotency-Key, which no other operation of the history has."""
    hold: str | None
    """The hold it is about; of a reserve its own key, of a refund what is refunded."""
    amount: int | None
    """What it asked for; None: all there is, or nothing to do with money."""
    sent: dict[str, Any]
    """Its body."""
    asked_ns: int
    """Before the first attempt."""
    answered_ns: int | None = None
    """After the answer that decided `outcome`; None while it is unknown."""
    outcome: Outcome = "unknown"
    code: str = ""
    """The last refusal's code, or `lost` for an answer that never came; of ok: empty."""
    answer: dict[str, Any] = field(default_factory=dict)
    """What an ok answered (`ANSWERED`)."""
    replay: bool = False
    """The answer says that an earlier attempt had done it."""
    attempts: int = 0
    maybe: bool = False
    """An attempt had no answer that says what became of it."""


ANSWERED = (
    *("state", "amount", "remaining", "committed", "uncollected", "late"),
    *("available", "held", "version", "durability"),
)
"""What is kept of an answer."""


class Note(NamedTuple):
    """Something that was done to the service, and when (monotonic_ns)."""

    at_ns: int
    text: str


class History:
    """All operations, in the order in which they were first asked."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.notes: list[Note] = []
        self.counts: Counter[tuple[Kind, Outcome, str]] = Counter()
        """Ended operations by kind, outcome and code."""
        self._asked = 0

    def __len__(self) -> int:
        """Operations asked, ended or not."""
        return self._asked

    def ask(
        self,
        kind: Kind,
        account: str,
        key: str,
        *,
        hold: str | None = None,
        amount: int | None = None,
        sent: dict[str, Any] | None = None,
    ) -> Operation:
        """A new operation, asked now."""
        now_ns = time.monotonic_ns()
        operation = Operation(self._asked, kind, account, key, hold, amount, sent or {}, now_ns)
        self._asked += 1
        self.keep(operation)
        return operation

    def keep(self, operation: Operation) -> None:
        """Take up an operation that was asked."""
        self.operations.append(operation)

    def end(self, operation: Operation) -> None:
        """Nothing more will become of this operation."""
        self.counts[operation.kind, operation.outcome, operation.code] += 1

    def note(self, text: str) -> int:
        """Write down that something is done to the service now; answers the time."""
        now_ns = time.monotonic_ns()
        self.notes.append(Note(now_ns, text))
        return now_ns

    def counted(self, outcome: Outcome) -> int:
        """Ended operations of an outcome."""
        return sum(count for (_, each, _), count in self.counts.items() if each == outcome)

    def accounts(self) -> list[str]:
        """The accounts of all operations, sorted."""
        return sorted({operation.account for operation in self.operations})

    # Files

    def dump(self, path: Path) -> None:
        """One JSON object a line: notes, then operations."""
        with path.open("wb") as file:
            for note in self.notes:
                file.write(orjson.dumps(note._asdict(), option=orjson.OPT_APPEND_NEWLINE))
            for operation in self.operations:
                file.write(orjson.dumps(operation, option=orjson.OPT_APPEND_NEWLINE))

    @classmethod
    def of(cls, operations: Iterable[Operation], notes: Iterable[Note] = ()) -> History:
        """A history of operations that have ended."""
        history = cls()
        history.notes += notes
        for operation in operations:
            history.keep(operation)
            history.end(operation)
            history._asked += 1
        return history

    @classmethod
    def read(cls, path: Path) -> History:
        """What `dump` wrote."""
        lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        notes = [Note(**line) for line in lines if "text" in line]
        return cls.of((Operation(**line) for line in lines if "text" not in line), notes)


@dataclass(slots=True)
class Sums:
    """Of one account and one kind of operation: how many, and how much they moved at most."""

    ok: int = 0
    ok_amount: int = 0
    """What the answers say of grants, charges, refunds and reserves; of others 0."""
    unknown: int = 0
    unknown_amount: int = 0
    """What the unknown ones asked for; those that asked for all there is count 0."""


class Met(NamedTuple):
    """What the journal has of one account and one kind of operation."""

    effects: int
    amount: int


class Tally(History):
    """A history that forgets each operation when it ends, and keeps sums.

    For loads of millions. It tells lost, doubled and altered effects by number and amount; of
    single answers and their order in time it knows nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sums: dict[tuple[str, Kind], Sums] = {}

    def keep(self, operation: Operation) -> None:
        """Nothing: it is counted when it ends."""

    def end(self, operation: Operation) -> None:
        super().end(operation)
        if operation.outcome == "refused" or no_effect(operation):
            return
        kind = operation.kind
        sums = self.sums.setdefault((operation.account, kind), Sums())
        amount = operation.amount or 0
        if operation.outcome == "ok":
            sums.ok += 1
            sums.ok_amount += operation.answer["amount"] if kind in _SUMMED else 0
        else:
            sums.unknown += 1
            sums.unknown_amount += amount if kind in _SUMMED else 0

    def accounts(self) -> list[str]:
        return sorted({account for account, _ in self.sums})

    def unlike(self, met: Mapping[tuple[str, Kind], Met]) -> Iterator[tuple[str, str]]:
        """(kind of finding, detail) of what the journal has otherwise, by account and kind."""
        for name in sorted(self.sums.keys() | met.keys()):
            sums, (count, amount) = self.sums.get(name, Sums()), met.get(name, Met(0, 0))
            told = f"{' '.join(name)}: {sums}, in the journal {count} of {amount}"
            most = sums.ok_amount + sums.unknown_amount
            if count < sums.ok:
                yield "lost", told
            elif count > sums.ok + sums.unknown:
                yield "duplicate", told
            elif name[1] not in _SUMMED:
                continue
            elif amount < sums.ok_amount or (
                amount > most and not (name[1] == "refund" and sums.unknown)
            ):
                yield "wrong_effect", told


_SUMMED = frozenset({"grant", "charge", "refund", "reserve"})


def no_effect(operation: Operation) -> bool:
    """Whether it was answered well and had nothing to do: a release of a hold that had expired."""
    return operation.kind == "release" and operation.answer.get("state") == "expired"
