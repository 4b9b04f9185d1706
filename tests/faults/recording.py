"""The evidence of a real run, kept, so that it can be falsified and judged again.

truth = await record(directory)
story = truth.retold()                # a copy, free to be changed
story.rewrite(story.find("charge"), amount="1")
story.judged().found
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha1
from typing import Any, NamedTuple

import orjson

from tests.faults.checker import Reader, check, feed
from tests.faults.evidence import AccountRow, Line, RecordRow
from tests.faults.history import History, Operation
from tests.faults.judge import Judge
from tests.faults.load import Load
from tests.faults.mix import Mix
from tests.faults.place import PATIENCE_S, Place
from tests.faults.program import POLL_S
from tests.faults.verdict import Verdict


@dataclass
class Shard:
    """What Postgres has of a shard."""

    number: int
    lines: list[Line] = field(default_factory=list)
    accounts: list[AccountRow] = field(default_factory=list)
    records: list[RecordRow] = field(default_factory=list)
    mark: int = 0
    chain: str = ""


class Where(NamedTuple):
    """A line of a story."""

    shard: Shard
    at: int

    @property
    def line(self) -> Line:
        return self.shard.lines[self.at]

    @property
    def entry(self) -> dict[str, Any]:
        """What its entry says."""
        entry: dict[str, Any] = orjson.loads(self.line.entry)
        return entry


@dataclass
class Story:
    """A history, what the service answered in the end, and what Postgres has."""

    history: History
    finals: dict[str, dict[str, Any]] = field(default_factory=dict)
    shards: list[Shard] = field(default_factory=list)

    def retold(self) -> Story:
        """A copy, to be changed. Rows cannot be, and are shared."""
        copies = (
            replace(each, sent=dict(each.sent), answer=dict(each.answer))
            for each in self.history.operations
        )
        history = History.of(copies, self.history.notes)
        shards = [
            replace(each, lines=[*each.lines], accounts=[*each.accounts], records=[*each.records])
            for each in self.shards
        ]
        return Story(history, copy.deepcopy(self.finals), shards)

    def judged(self, *, reported: bool = False, **options: Any) -> Verdict:
        """What a judge finds in it; nothing that was lost is reported."""
        judge = Judge(self.history, self.finals, **options)
        for shard in self.shards:
            judge.begin(shard.number)
            for line in shard.lines:
                judge.entry(line)
            judge.tables(shard.accounts)
            judge.records(shard.records)
            judge.end(shard.mark, shard.chain)
        return judge.close(reported=reported)

    # Finding

    def places(self) -> Iterable[Where]:
        """Every line."""
        return (Where(shard, at) for shard in self.shards for at in range(len(shard.lines)))

    def find(self, type_: str, which: Callable[[Where], bool] = lambda where: True) -> Where:
        """The first line of a type for which `which` holds."""
        return next(w for w in self.places() if w.line.type == type_ and which(w))

    def operation(self, where: Where) -> Operation:
        """Who asked for a line."""
        return next(o for o in self.history.operations if o.key == where.line.key)

    def last(self, account: str) -> Line:
        """The last line of an account."""
        return next(
            line
            for shard in self.shards
            for line in reversed(shard.lines)
            if line.account == account
        )

    # Falsifying

    def rewrite(self, where: Where, **changes: Any) -> None:
        """Let an entry say something else, in its row too, with a chain that links."""
        self.put(where, where.entry | changes)

    def put(self, where: Where, entry: dict[str, Any]) -> None:
        """Let a line have this entry."""
        shard, at = where
        shard.lines[at] = _row(entry, shard.lines[at].settled_ms)
        self.link(shard)

    def append(self, account: str, **entry: Any) -> None:
        """One more entry of an account, at the end of its shard."""
        last = self.last(account)
        shard = next(shard for shard in self.shards if last in shard.lines)
        now = {
            "account": account,
            "seq": str(shard.lines[-1].seq + 1),
            "version": str((last.version or 0) + 1),
            "at": orjson.loads(shard.lines[-1].entry)["at"],
            "available": str(last.available),
            "held": str(last.held),
            "context": {},
        }
        shard.lines.append(_row(now | entry, shard.lines[-1].settled_ms))
        self.link(shard)

    @staticmethod
    def link(shard: Shard) -> None:
        """Compute the chain of a shard anew, and put its mark at the end."""
        chain = ""
        for at, line in enumerate(shard.lines):
            chain = sha1((chain + line.entry).encode()).hexdigest()
            shard.lines[at] = line._replace(chain=chain)
        shard.mark, shard.chain = shard.lines[-1].seq, chain


def _row(entry: dict[str, Any], settled_ms: int) -> Line:
    """The row that a settlement writes for an entry."""
    hold = entry.get("hold") or (entry["key"] if entry["type"] == "reserve" else None)
    return Line(
        seq=int(entry["seq"]),
        account=entry["account"],
        version=int(entry["version"]),
        type=entry["type"],
        hold=hold,
        key=entry.get("key"),
        amount=int(entry["amount"]) if "amount" in entry else None,
        available=int(entry["available"]),
        held=int(entry["held"]),
        quarantined=False,
        chain="",
        entry=orjson.dumps(entry).decode(),
        settled_ms=settled_ms,
    )


class _Recorder(Judge):
    """Writes down what it is fed."""

    def __init__(self) -> None:
        super().__init__()
        self.shards: list[Shard] = []

    def begin(self, number: int) -> None:
        super().begin(number)
        self.shards.append(Shard(number))

    def entry(self, line: Line) -> None:
        super().entry(line)
        self.shards[-1].lines.append(line)

    def tables(self, rows: Iterable[AccountRow]) -> None:
        self.shards[-1].accounts += (kept := list(rows))
        super().tables(kept)

    def records(self, rows: Iterable[RecordRow]) -> None:
        self.shards[-1].records += (kept := list(rows))
        super().records(kept)

    def end(self, mark: int, chain: str) -> None:
        super().end(mark, chain)
        self.shards[-1].mark, self.shards[-1].chain = mark, chain


async def record(place: Place) -> tuple[Story, Verdict]:
    """Load a place, check it, and keep what was seen. Some of its holds expire."""
    weights = (*Mix.weights, ("over", 14))  # which take debt, now and then
    mix = Mix(weights=weights, short_ttl_share=0.15)
    load = Load(place.urls, place.key, history := History(), seed=1, accounts=12, mix=mix)
    await load.open()
    await load.run(operations=700)
    await _expired(place)
    await load.run(operations=300)  # late commits among them
    verdict = await check(history, place)
    async with Reader(place, timeout_s=PATIENCE_S) as reader:
        finals = await reader.accounts(history.accounts(), verdict)
    async with place.postgres_connection() as connection:
        recorder = await _recorded(connection, finals)
    return Story(history, finals, recorder.shards), verdict


async def _expired(place: Place) -> None:
    """Until a few holds have expired, and the journal has it."""
    async with place.postgres_connection() as connection, asyncio.timeout(PATIENCE_S):
        while True:
            found = await connection.fetchval("SELECT count(*) FROM journal WHERE type = 'expire'")
            if found > 2:
                return
            await asyncio.sleep(POLL_S)


async def _recorded(connection: Any, finals: Mapping[str, dict[str, Any]]) -> _Recorder:
    """What Postgres has, as soon as it has what was answered."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await feed(recorder := _Recorder(), connection)
            rows = {row.account: row.version for each in recorder.shards for row in each.accounts}
            if all(rows.get(name, 0) >= final["version"] for name, final in finals.items()):
                return recorder
            await asyncio.sleep(POLL_S)
