"""An account as its journal entries make it: the design's arithmetic, repeated entry by entry.

The money is the model's (tests/model/account_model.py), which was written from the design and knows
neither scripts nor entries. Here an entry says what was done, the model does the same, and what the
entry says of the result must be what the model has: balances, what changed of them, expiring
grants, and the record of the key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.model.account_model import ModelAccount, ModelGrant

__all__ = ["Account", "Entry", "Record"]

Entry = Mapping[str, Any]
"""What an entry's JSON says; every number is text, every map a list of names and values in turn."""

_SUMS = ("base", "debt", "held", "granted", "refunded", "spent", "forfeited")


@dataclass(slots=True)
class Record:
    """What an idempotency key did, as far as money goes."""

    kind: str
    state: str
    amount: int
    opened: int
    """The version that opened it."""
    deadline: int = 0
    remaining: int = 0
    committed: int = 0
    refunded: int = 0
    uncollected: int = 0
    late: int = 0
    draws: list[ModelGrant] | None = None
    """What of `remaining` came from which expiring grant."""
    keys: list[str] | None = None
    """Of the calls on a hold that had one."""
    ended: int = 0
    """The version that ended a hold; 0 while it is open. A late commit does not end it again."""

    def drawn(self) -> str:
        """`draws` as a record has them."""
        return ",".join(
            f"{draw.id}@{draw.expires}/{draw.priority}={draw.remaining}"
            for draw in self.draws or ()
            if draw.remaining
        )


_RECORDED = (
    *("kind", "state", "amount", "deadline", "remaining", "committed", "refunded"),
    *("uncollected", "late", "opened"),
)


@dataclass
class Account(ModelAccount):
    """Replays one account. `apply` answers what is wrong with an entry."""

    version: int = 0
    status: str = ""
    records: dict[str, Record] = field(default_factory=dict)
    set_aside: int = 0
    """The sum of all open holds: `held`, without adding them up each time."""
    forfeits: tuple[str, int] | None = None
    """A hold gave back what belonged to a grant that is over: the next entry says so."""
    owed: int = 0
    """What the last entry took beyond funds and overdraft: right only where debt was asked for."""

    @property
    def held(self) -> int:
        return self.set_aside

    def sums(self) -> tuple[int, ...]:
        """The balances that an entry's delta is about, in its order."""
        return (
            *(self.base, self.debt, self.set_aside),
            *(self.granted, self.refunded, self.spent, self.forfeited),
        )

    def apply(self, entry: Entry) -> list[tuple[str, str]]:
        """Do what an entry says was done; (kind, detail) of each thing that is wrong with it."""
        kind = entry["type"]
        version, self.now = int(entry["version"]), int(entry["at"])
        wrong: list[tuple[str, str]] = []
        if version != self.version + 1:
            wrong.append(("version", f"version {version} follows {self.version}"))
        self.version, self.owed = version, 0
        was, had = self.sums(), {g.id: g.remaining for g in self.grants}
        due, self.forfeits = self.forfeits, None
        if due is not None and kind != "forfeit":
            wrong.append(("balance", f"{due[1]} of hold {due[0]} were to be forfeited first"))
        act = _ACTS.get(kind)
        if act is None:
            return [*wrong, ("unreadable", f"there is no transition {kind!r}")]
        if kind == "forfeit":
            wrong += self._forfeit(entry, due)
        else:
            wrong += act(self, entry)
        wrong += self._compare(entry, was, had)
        return wrong

    # What an entry says of the result

    def _compare(
        self, entry: Entry, was: tuple[int, ...], had: dict[str, int]
    ) -> Iterator[tuple[str, str]]:
        for name, value in (("available", self.available), ("held", self.set_aside)):
            if int(entry[name]) != value:
                yield "balance", f"{name} is {entry[name]}, the model has {value}"
        moved = {
            name: str(after - before)
            for name, before, after in zip(_SUMS, was, self.sums(), strict=True)
            if after != before
        }
        # Some scripts write what did not change as well, as 0.
        said = {name: by for name, by in _pairs(entry.get("delta")).items() if by != "0"}
        if said != moved:
            yield "balance", f"its delta is {said}, the model moved {moved}"
        if had or self.grants or "grants" in entry:
            yield from self._compare_grants(_pairs(entry.get("grants")), had)
        key = entry.get("hold") or entry.get("key")
        if "record" in entry:
            yield from self._record(key or "", _pairs(entry["record"]))
        if "of_record" in entry:
            yield from self._record(entry["of"], _pairs(entry["of_record"]))

    def _compare_grants(
        self, said: dict[str, str], had: dict[str, int]
    ) -> Iterator[tuple[str, str]]:
        """Every grant that changed is named. One that a script touched is named in the rest of its
        entries as well, changed or not."""
        now = {g.id: g for g in self.grants if g.remaining}
        for id in had.keys() | now.keys() | said.keys():
            grant = now.get(id)
            if id not in said:
                if had.get(id, 0) != (grant.remaining if grant else 0):
                    yield "balance", f"it does not name grant {id}, the model has {grant}"
            elif grant is None:
                if not said[id].endswith(" 0"):
                    yield "balance", f"grant {id} is {said[id]}, the model has none"
            elif said[id] != (is_ := f"{grant.expires} {grant.priority} {grant.remaining}"):
                yield "balance", f"grant {id} is {said[id]}, the model has {is_}"

    def _record(self, key: str, said: dict[str, str]) -> Iterator[tuple[str, str]]:
        record = self.records.get(key)
        if record is None:
            return  # said before
        has = {name: str(getattr(record, name)) for name in _RECORDED if name in said}
        if "draws" in said:
            has["draws"] = record.drawn()
        for name, value in has.items():
            if said[name] != value:
                yield "record", f"{name} of {key} is {said[name]!r}, the model has {value!r}"

    # Transitions; each answers what should not have been

    def _open(self, entry: Entry) -> Iterator[tuple[str, str]]:
        if self.version != 1:
            yield "version", "it opens the account anew"
        yield from self._settings(entry)

    def _settings(self, entry: Entry) -> Iterator[tuple[str, str]]:
        if entry.get("member"):
            return
        for name, text in _pairs(entry.get("settings")).items():
            if name == "overdraft_limit":
                self.overdraft_limit = int(text or 0)
            elif name == "status":
                self.status = text
        yield from ()

    def _grant(self, entry: Entry) -> Iterator[tuple[str, str]]:
        key, amount = entry["key"], int(entry["amount"])
        said = _pairs(entry["record"])
        expires = int(said["expires"]) if "expires" in said else None
        priority = 0
        for id, text in _pairs(entry.get("grants")).items():
            if id == key:
                priority = int(text.split(" ")[1])  # which its record does not have
        if self.grant(key, amount, expires, priority) != "ok":
            yield "balance", "the model refuses this grant"
        yield from self._new(entry, Record("grant", "", amount, self.version))

    def _adjust(self, entry: Entry) -> Iterator[tuple[str, str]]:
        amount = int(entry["amount"])
        if self.adjust(amount) != "ok":
            yield "overspend", f"{-amount} are taken away, {self.available} are there"
        yield from self._new(entry, Record("adjust", "", amount, self.version))

    def _reserve(self, entry: Entry) -> Iterator[tuple[str, str]]:
        amount = int(entry["amount"])
        if amount > self.room:
            yield "overspend", f"{amount} are reserved, {self.room} are there"
        said = _pairs(entry["record"])
        draws = self._draw(amount)
        deadline = int(said["deadline"])
        if deadline <= self.now:
            yield "record", "the hold is over when it begins"
        self.set_aside += amount
        hold = Record("hold", "held", amount, self.version, deadline, amount, draws=draws or None)
        yield from self._new(entry, hold)

    def _hold(self, entry: Entry) -> Record:
        """The hold that an entry is about. Raises LookupError."""
        hold = self.records.get(entry["hold"])
        if hold is None or hold.kind != "hold":
            raise LookupError(f"there is no hold {entry['hold']}")
        return hold

    def _once(self, entry: Entry, hold: Record) -> Iterator[tuple[str, str]]:
        """A key of a call on a hold does one thing."""
        if (key := entry.get("key")) is not None:
            hold.keys = hold.keys or []
            if key in hold.keys:
                yield "duplicate", f"key {key} did something to hold {entry['hold']} before"
            hold.keys.append(key)

    def _extend(self, entry: Entry) -> Iterator[tuple[str, str]]:
        hold = self._hold(entry)
        yield from self._once(entry, hold)
        if hold.state != "held" or self.now >= hold.deadline:
            yield "record", f"hold {entry['hold']} is extended, it is {hold.state}"
        add = int(entry["amount"])
        if add:
            if add > self.room:
                yield "overspend", f"{add} more are reserved, {self.room} are there"
            hold.draws = (hold.draws or []) + self._draw(add)
            hold.amount += add
            hold.remaining += add
            self.set_aside += add
        deadline = int(_pairs(entry["record"]).get("deadline", hold.deadline))
        if deadline < hold.deadline:
            yield "record", f"its deadline moves back from {hold.deadline} to {deadline}"
        hold.deadline = deadline

    def _commit(self, entry: Entry) -> Iterator[tuple[str, str]]:
        hold = self._hold(entry)
        yield from self._once(entry, hold)
        late = hold.state == "expired"
        if hold.state not in ("held", "expired") or (not late and self.now >= hold.deadline):
            yield "record", f"hold {entry['hold']} is committed, it is {hold.state}"
        if (entry.get("late") == "1") != late:
            yield "record", f"late is {entry.get('late')}, the hold is {hold.state}"
        amount, uncollected = int(entry["amount"]), int(entry.get("uncollected", 0))
        final = _pairs(entry["record"]).get("state") == "committed"
        if amount < 0:
            yield "balance", f"a commit gives {-amount} back"
        in_hold = min(amount + uncollected, hold.remaining)
        extra = amount - in_hold
        if uncollected and extra != max(self.room, 0):
            yield "balance", f"{uncollected} are uncollected, of {self.room} it took {extra}"
        self.owed = max(extra - max(self.room, 0), 0) if extra > 0 else 0
        draws = hold.draws or []
        self._take_front(draws, in_hold)
        self._draw(extra)
        self.spent += amount
        self.set_aside -= in_hold
        hold.remaining -= in_hold
        hold.committed += amount
        hold.uncollected += uncollected
        hold.late = hold.late or int(late)
        if final:
            self._end(entry["hold"], hold, "committed")

    def _release(self, entry: Entry) -> Iterator[tuple[str, str]]:
        yield from self._give_up(entry, "released")

    def _expire(self, entry: Entry) -> Iterator[tuple[str, str]]:
        yield from self._give_up(entry, "expired")

    def _give_up(self, entry: Entry, state: str) -> Iterator[tuple[str, str]]:
        hold = self._hold(entry)
        yield from self._once(entry, hold)
        over = self.now >= hold.deadline
        if hold.state != "held" or over != (state == "expired"):
            when = "after" if over else "before"
            yield "record", f"the hold is {hold.state}, and {state} {when} its deadline"
        if int(entry["amount"]) != hold.remaining:
            yield "balance", f"{entry['amount']} come back, {hold.remaining} were left"
        self._end(entry["hold"], hold, state)

    def _end(self, key: str, hold: Record, state: str) -> None:
        """Give back what is left; what belongs to a grant that is over has its own entry next."""
        forfeited = self.forfeited
        hold.ended = hold.ended or self.version
        rest, hold.remaining, hold.state = hold.remaining, 0, state
        self.set_aside -= rest
        self._give_back(hold.draws or [], rest)
        hold.draws = None
        if lost := self.forfeited - forfeited:
            self.forfeited = forfeited
            self.base += lost
            self.forfeits = key, lost

    def _forfeit(
        self, entry: Entry, due: tuple[str, int] | None = None
    ) -> Iterator[tuple[str, str]]:
        amount = int(entry["amount"])
        if "hold" in entry:
            if due != (entry["hold"], amount):
                yield "balance", f"{amount} of {entry['hold']} are forfeited, the model has {due}"
            self.base -= amount
        else:
            grant = next((g for g in self.grants if g.id == entry["grant"]), None)
            if grant is None or grant.remaining != amount or grant.expires > self.now:
                yield "balance", f"{amount} of grant {entry['grant']} are forfeited, it is {grant}"
            if grant is not None:
                grant.remaining = 0
                self._live()
        self.forfeited += amount

    def _charge(self, entry: Entry) -> Iterator[tuple[str, str]]:
        amount, uncollected = int(entry["amount"]), int(entry.get("uncollected", 0))
        room = max(self.room, 0)
        if uncollected and amount != room:
            yield "balance", f"{uncollected} are uncollected, of {room} it took {amount}"
        self.owed = max(amount - room, 0)
        self._draw(amount)
        self.spent += amount
        record = Record("charge", "committed", amount, self.version)
        record.committed, record.uncollected = amount, uncollected
        yield from self._new(entry, record)

    def _refund(self, entry: Entry) -> Iterator[tuple[str, str]]:
        amount = int(entry["amount"])
        target = self.records.get(entry["of"])
        if target is None or target.kind not in ("hold", "charge") or target.state == "held":
            yield "record", f"{entry['of']} cannot be refunded: {target}"
        else:
            if amount > target.committed - target.refunded:
                left = target.committed - target.refunded
                yield "overspend", f"{amount} are refunded of {entry['of']}, {left} are left"
            target.refunded += amount
        self.refunded += amount
        self.base += self._pay_debt(amount)
        yield from self._new(entry, Record("refund", "", amount, self.version))

    def _new(self, entry: Entry, record: Record) -> Iterator[tuple[str, str]]:
        key = entry["key"]
        if key in self.records:
            yield "duplicate", f"key {key} did something before, at {self.records[key].opened}"
        self.records[key] = record


_ACTS = {
    "open": Account._open,
    "settings": Account._settings,
    "freeze": Account._settings,
    "grant": Account._grant,
    "adjust": Account._adjust,
    "reserve": Account._reserve,
    "extend": Account._extend,
    "commit": Account._commit,
    "release": Account._release,
    "expire": Account._expire,
    "forfeit": Account._forfeit,
    "charge": Account._charge,
    "refund": Account._refund,
}


def _pairs(flat: list[str] | None) -> dict[str, str]:
    """Names and values in turn, as a map."""
    return dict(zip(flat[::2], flat[1::2], strict=True)) if flat else {}
