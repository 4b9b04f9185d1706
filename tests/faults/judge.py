"""Judges a history by the journal: pure, fed with rows, shard by shard.

    judge = Judge(history, finals)
    judge.begin(0)
    for line in lines: judge.entry(line)                    # all of a shard, by number
    judge.tables(accounts); judge.records(records)          # what Postgres has of it besides
    judge.end(mark, chain)
    verdict = judge.close(incidents)

Every entry is done once more by an independent model of its account (account.py). An operation is
found by its key: its effect must be what was asked for and what was answered, once. Numbers give
all scripts of a shard one order, and that order must respect time: what was answered before another
was asked has the lower number. Models live until their shard ends, so that memory is bounded by the
largest shard, and by the history.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha1
from itertools import islice
from typing import Any, NamedTuple

import orjson

from tests.faults.account import Account, Entry, Record
from tests.faults.asked import answered, named, unexpected, unlike, value_of
from tests.faults.denials import Timeline
from tests.faults.evidence import AccountRow, Line, RecordRow
from tests.faults.history import History, Kind, Met, Operation, Tally, no_effect
from tests.faults.loss import lost_at_most, not_a_tail
from tests.faults.verdict import Verdict

__all__ = ["Expected", "Judge"]

_FINAL = (
    *("available", "held", "debt", "granted", "refunded", "spent", "forfeited"),
    *("status", "overdraft_limit"),
)
# Of each shard, so many holds are compared with what the service answers: open ones, and ended ones
# evenly over its life.
_HOLDS_READ = 64


class Expected(NamedTuple):
    """A hold as the journal leaves it."""

    account: str
    hold: str
    record: Record


@dataclass(slots=True)
class _Effect:
    """What an operation did, up to its last entry: what it ends may forfeit something."""

    operation: Operation
    version: int
    available: int
    held: int


class _Shard:
    """What is known of the shard that is being read."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.seq = 0
        self.chain = ""
        self.accounts: dict[str, Account] = {}
        self.diverted: set[str] = set()
        """Accounts that an entry was rejected of: their tables stand still."""
        self.effects: list[_Effect] = []
        self.last: dict[str, _Effect | None] = {}
        """Of each account, the effect of its last entry."""
        self.asked_last: Operation | None = None
        """Of all that have a number, the one that was asked last."""
        self.timelines: dict[str, Timeline] = {}
        self.records = 0
        """Rows of `record`."""


class Judge:
    """Reads the journal of all shards, one after the other, and says what is wrong."""

    def __init__(
        self,
        history: History | None = None,
        finals: Mapping[str, dict[str, Any]] | None = None,
        *,
        allow_lost: bool = False,
        verdict: Verdict | None = None,
    ) -> None:
        """`finals` are the accounts as the service answered them, each at its version."""
        self.verdict = Verdict() if verdict is None else verdict
        self.holds: list[Expected] = []
        """Holds to be compared with what the service answers."""
        self._history = History() if history is None else history
        self._finals = dict(finals or {})
        self._allow_lost = allow_lost
        self._by_key = {each.key: each for each in self._history.operations}
        self._tally = self._history if isinstance(self._history, Tally) else None
        self._ours = set(self._history.accounts())
        self._denied: dict[str, list[Operation]] = defaultdict(list)
        """Refusals of each account that can be looked into: nothing of it may be gone."""
        for operation in () if allow_lost else self._history.operations:
            if operation.outcome == "refused":
                self._denied[operation.account].append(operation)
        self._applied: dict[int, int] = {}
        """Operations that have an effect, and its version."""
        self._met: dict[tuple[str, Kind], Met] = {}
        """For a tally, the effects by account and kind of operation."""
        self._survivors: dict[int, list[Operation]] = defaultdict(list)
        self._shard_of: dict[str, int] = {}
        self._shard = _Shard(-1)

    # A shard

    def begin(self, number: int) -> None:
        """What follows is of this shard."""
        self._shard = _Shard(number)

    def entry(self, line: Line) -> None:
        """The next row of its journal."""
        shard, name = self._shard, line.account
        self.verdict.entries += 1
        if line.seq != shard.seq + 1:
            self._add("gap", line, f"it follows {shard.seq}")
        linked = sha1((shard.chain + line.entry).encode(), usedforsecurity=False).hexdigest()
        if linked != line.chain:
            self._add("chain", line, f"its chain is {line.chain}, of its text {linked}")
        shard.seq, shard.chain = line.seq, line.chain
        if line.quarantined:
            self._add("quarantined", line, line.entry[:200])
            shard.diverted.add(name)
        if name in shard.diverted:
            return
        if (account := shard.accounts.get(name)) is None:
            account = shard.accounts[name] = Account()
            self._shard_of[name] = shard.number
            if name in self._denied:
                shard.timelines[name] = Timeline()
        try:
            self._apply(line, account)
        except (LookupError, TypeError, ValueError) as error:
            self._add("unreadable", line, f"{error!r} of {line.entry[:200]}")
            shard.diverted.add(name)

    def _apply(self, line: Line, account: Account) -> None:
        entry = orjson.loads(line.entry)
        self._columns(line, entry)
        due_ms = _due_ms(account, entry)
        if due_ms is not None and line.settled_ms < due_ms:
            self._add("early", line, f"it was due at {due_ms}, and settled at {line.settled_ms}")
        for kind, detail in account.apply(entry):
            self._add(kind, line, detail)
        timeline = self._shard.timelines.get(line.account)
        if timeline is not None:
            timeline.rooms.append(account.room)
        key = entry.get("key")
        operation = None if key is None else self._by_key.get(key)
        if operation is not None:
            if timeline is not None:
                timeline.note(operation, account.version)
            self._effect(line, entry, account, operation)
        else:
            self._nobodys(line, entry, account)
        final = self._finals.get(line.account)
        if final is not None and final["version"] == account.version:
            self._final(line.account, account, self._finals.pop(line.account))

    def _add(self, kind: str, line: Line, detail: str) -> None:
        where = f"shard {self._shard.number} entry {line.seq} ({line.type} of {line.account})"
        self.verdict.add(kind, f"{where}: {detail}")

    def _columns(self, line: Line, entry: Entry) -> None:
        kind, amount = entry["type"], entry.get("amount")
        said = (
            *(int(entry["seq"]), entry["account"], int(entry["version"]), kind),
            *(entry.get("hold") or (entry["key"] if kind == "reserve" else None),),
            *(entry.get("key"), None if amount is None else int(amount)),
            *(int(entry["available"]), int(entry["held"])),
        )
        if (row := line[: len(said)]) != said:
            self._add("columns", line, f"the row is {row}, its entry says {said}")

    def _nobodys(self, line: Line, entry: Entry, account: Account) -> None:
        """An entry that no operation of the history asked for by its key."""
        before = self._shard.last.get(line.account)
        ends = line.type == "forfeit" and line.hold is not None  # a grant's is nobody's
        if ends and before is not None and before.operation.hold == line.hold:
            # The rest of the script that ended the hold: this is what it answered.
            before.version, before.available = account.version, account.available
            return
        self._shard.last[line.account] = None
        if line.key is None or line.account not in self._ours:
            return
        if self._tally is None:
            self._add("stray", line, f"no operation has the key {line.key}")
            return
        partial = line.type == "commit" and value_of(entry["record"], "state") != "committed"
        name: Any = (line.account, "partial" if partial else line.type)
        count, amount = self._met.get(name, (0, 0))
        self._met[name] = Met(count + 1, amount + (line.amount or 0))

    def _effect(self, line: Line, entry: Entry, account: Account, operation: Operation) -> None:
        """The entry that an operation asked for."""
        shard = self._shard
        if operation.id in self._applied:
            was = self._applied[operation.id]
            self._add("duplicate", line, f"{named(operation)} did it before, at version {was}")
            return
        effect = _Effect(operation, account.version, account.available, account.held)
        self._applied[operation.id] = account.version
        shard.last[line.account] = effect
        if operation.outcome == "refused":
            told = f"{named(operation)} was refused with {operation.code}"
            self._add("refused_effect", line, told)
        for detail in unlike(operation, entry, account):
            self._add("wrong_effect", line, f"{named(operation)}: {detail}")
        if account.owed and operation.sent.get("on_shortfall") != "debt":
            self._add("overspend", line, f"{account.owed} beyond what was there")
        if operation.outcome == "ok":
            shard.effects.append(effect)
            self._survivors[shard.number].append(operation)
            for detail in answered(operation, account):
                self._add("wrong_answer", line, detail)
        last = shard.asked_last
        if last is None or operation.asked_ns > last.asked_ns:
            shard.asked_last = operation
        elif operation.answered_ns is not None and operation.answered_ns < last.asked_ns:
            told = f"{named(operation)} was answered before {named(last)} was asked"
            self._add("order", line, told)

    # What stands at the end of a shard

    def _final(self, name: str, account: Account, said: Mapping[str, Any]) -> None:
        """What the service answered of an account, which is at that version now."""
        grants = sorted(account.grants, key=lambda g: (g.expires, g.priority, g.id))
        has: dict[str, Any] = {field: getattr(account, field) for field in _FINAL}
        has["grants"] = [(g.id, g.priority, g.remaining) for g in grants if g.remaining]
        has["open_holds"] = sum(record.state == "held" for record in account.records.values())
        told = [(g["id"], g["priority"], g["remaining"]) for g in said["grants"]]
        for field, value in has.items():
            if (answer := told if field == "grants" else said[field]) != value:
                where = f"{name} at version {account.version}"
                detail = f"the service answers {field} {answer}, the journal has {value}"
                self.verdict.add("final", f"{where}: {detail}")

    def tables(self, rows: Iterable[AccountRow]) -> None:
        """All that Postgres has of accounts in this shard, after its last entry."""
        there = {row.account: row for row in rows}
        accounts = self._shard.accounts
        for name in (there.keys() | accounts.keys()) - self._shard.diverted:
            row, account = there.get(name), accounts.get(name)
            if row is None or account is None:
                only = "Postgres" if account is None else "the journal"
                self.verdict.add("tables", f"account {name} is in {only} alone")
                continue
            has = AccountRow(
                *(name, account.version, account.status, account.overdraft_limit, account.base),
                *(sum(g.remaining for g in account.grants), account.debt, account.available),
                *(account.held, account.granted, account.refunded, account.spent),
                account.forfeited,
            )
            for field, said, value in zip(AccountRow._fields, row, has, strict=True):
                if said != value:
                    detail = f"{field} is {said}, the journal has {value}"
                    self.verdict.add("tables", f"account {name}: {detail}")
            funds = account.granted + account.refunded - account.spent - account.forfeited
            if account.available + account.held != funds:
                detail = f"{account.available} + {account.held} is not {funds}"
                self.verdict.add("balance", f"account {name}: {detail}")

    def records(self, rows: Iterable[RecordRow]) -> None:
        """Some of what Postgres has of records in this shard, each once."""
        for row in rows:
            self._shard.records += 1
            account = self._shard.accounts.get(row.account)
            record = None if account is None else account.records.get(row.key)
            if row.account in self._shard.diverted:
                continue
            if record is None:
                self.verdict.add("tables", f"record {row.key} of {row.account} has no entry")
                continue
            has = (
                *(row.account, row.key, record.opened, record.kind, record.state, record.amount),
                *(record.committed, record.remaining, record.refunded, record.uncollected),
                record.deadline,
            )
            if row != has:
                self.verdict.add("tables", f"the record is {row}, the journal has {has}")

    def end(self, mark: int, chain: str) -> None:
        """Nothing more of this shard; where its row says that the journal ends."""
        shard, verdict = self._shard, self.verdict
        verdict.accounts += len(shard.accounts)
        if (mark, chain) != (shard.seq, shard.chain):
            detail = f"the journal ends at {shard.seq} {shard.chain}, its row says {mark} {chain}"
            verdict.add("gap", f"shard {shard.number}: {detail}")
        for effect in shard.effects:
            answer = effect.operation.answer
            said = (answer["version"], answer["available"], answer["held"])
            if said != (has := (effect.version, effect.available, effect.held)):
                detail = f"was answered version, available, held {said}, the journal has {has}"
                verdict.add("wrong_answer", f"{named(effect.operation)} {detail}")
        wanted = sum(len(account.records) for account in shard.accounts.values())
        if shard.records < wanted and not shard.diverted:
            detail = f"{shard.records} records, the journal has {wanted}"
            verdict.add("tables", f"shard {shard.number}: {detail}")
        for name in shard.timelines.keys() - shard.diverted:
            records = shard.accounts[name].records
            for detail in shard.timelines[name].untrue(self._denied[name], records):
                verdict.add("untrue", detail)
        self._choose_holds()
        self._shard = _Shard(-1)

    def _choose_holds(self) -> None:
        for is_open in (True, False):
            count = sum(1 for _ in self._holds(is_open))
            step = max(count // (_HOLDS_READ // 2), 1)
            self.holds += islice(self._holds(is_open), 0, step * _HOLDS_READ // 2, step)

    def _holds(self, is_open: bool) -> Iterator[Expected]:
        """The holds of this shard that somebody of the history made, open or ended."""
        for name in self._shard.accounts.keys() & self._ours:
            for key, record in self._shard.accounts[name].records.items():
                if record.kind == "hold" and (record.state == "held") is is_open:
                    yield Expected(name, key, record)

    # The whole

    def close(
        self, incidents: Iterable[Mapping[str, Any]] = (), *, reported: bool = True
    ) -> Verdict:
        """What became of every operation. `incidents` say what was lost: all of it, if it must
        be `reported`."""
        verdict, history = self.verdict, self._history
        for name, final in self._finals.items():
            detail = f"the service is at version {final['version']}, the journal is not"
            verdict.add("unsettled", f"{name}: {detail}")
        verdict.operations = len(history)
        verdict.acknowledged = history.counted("ok")
        verdict.refused = history.counted("refused")
        for (kind, _, code), count in history.counts.items():
            if unexpected(kind, code, allow_lost=self._allow_lost):
                verdict.add("unexpected", f"{count} × {kind} with {code}")
        lost: list[tuple[int, Operation]] = []
        for operation in history.operations:
            there = operation.id in self._applied
            if operation.outcome == "unknown":
                verdict.applied += there
                verdict.absent += not there
            elif operation.outcome == "ok" and not there and not no_effect(operation):
                lost.append((self._shard_of.get(operation.account, -1), operation))
                if not self._allow_lost or operation.answer.get("durability") == "settled":
                    verdict.add("lost", f"{named(operation)}, answered {operation.answer}")
        verdict.lost = len(lost)
        verdict.lost_by_shard.update(shard for shard, _ in lost)
        verdict.reported_by_shard.update(lost_at_most(incidents))
        if self._allow_lost:
            for shard, count in verdict.lost_by_shard.items() if reported else ():
                if count > (told := verdict.reported_by_shard[shard]):
                    verdict.add("unreported", f"shard {shard}: {count} are lost, {told} reported")
            for detail in not_a_tail(lost, self._survivors, history.notes):
                verdict.add("not_a_tail", detail)
        if self._tally is not None:
            for wrong, detail in self._tally.unlike(self._met):
                verdict.add(wrong, detail)
        return verdict


def _due_ms(account: Account, entry: Entry) -> int | None:
    """When what an entry expires was due; `account` is as it was before."""
    if entry["type"] == "expire":
        record = account.records.get(entry["hold"])
        return None if record is None else record.deadline
    if entry["type"] == "forfeit" and "grant" in entry:
        return next((g.expires for g in account.grants if g.id == entry["grant"]), None)
    return None
