"""Compares accounts of a live shard: the tables, plus what the stream has behind them, with Redis.

    settled of Redis ─▶ snapshot of Postgres (mark, rows) ─▶ accounts in Redis ─▶ stream behind the
         mark ─▶ records in Redis ─▶ stream again

In this order everything that is read later is at least as new, so whatever Redis has must follow
from the snapshot and the stream: an account from the entries up to the version that it was read at,
a record from those up to some later one. An account that moved while it was read, which takes
Redis some microseconds, is looked at again; after a few tries it was not compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast.keys import ShardKeys
from holdfast.shards import Argument, Shards
from settlement.expectation import (
    Live,
    Settled,
    expect,
    fields_of,
    in_redis,
    in_tables,
    limits_of,
)
from settlement.fold import Fold, Rejected
from settlement.queries import Connection, Pool, sql
from settlement.reader import Entry, verify
from settlement.report import Report

# Looks at an account, each in a newer snapshot, and the pauses between them: what is written to
# without a pause of a few milliseconds for a second is not compared.
_TRIES: Final = 8
_PAUSE_S: Final = 0.02
# Commands that are unanswered at a time: far below what a node is given (`max_in_flight`).
_ASKED_MAX: Final = 500
# Entries of one read of the stream, and of all of it: behind the mark are at most B2 (80,000), and
# what settles while it is read.
_STREAM_PAGE: Final = 1000
_STREAM_MAX: Final = 200_000


class NotComparable(Exception):
    """A shard that cannot be compared now; the message says why."""


class Moved(Exception):
    """What was read does not belong together: it is read again."""


@dataclass(slots=True)
class _Stream:
    """The verified entries of a shard behind some mark, kept from look to look."""

    mark: int = 0
    chain: str = ""
    entries: list[Entry] = field(default_factory=list)

    def move(self, mark: int, chain: str) -> bool:
        """Forget what is settled; False where it does not lead to this mark, and is forgotten."""
        if (mark, chain) == (self.mark, self.chain):
            return True
        place = mark - self.mark
        known = 0 < place <= len(self.entries) and self.entries[place - 1].chain == chain
        self.entries = self.entries[place:] if known else []
        self.mark, self.chain = mark, chain
        return known

    @property
    def last(self) -> tuple[int, str]:
        if self.entries:
            return self.entries[-1].seq, self.entries[-1].chain
        return self.mark, self.chain


class Comparison:
    """The comparison of one shard."""

    def __init__(
        self,
        pool: Pool,
        shards: Shards,
        number: int,
        report: Report,
        *,
        window_s: int,
        whole: bool,
    ) -> None:
        """`whole`: records that ended within the last `window_s` seconds are compared as well."""
        self.report = report
        self._pool = pool
        self._shards = shards
        self._number = number
        self._keys: ShardKeys = shards.keys[number]
        self._window_s = window_s
        self._whole = whole
        self._stream = _Stream()
        self._redis_settled = 0
        self._faults: set[str] = set()
        self._rejected: set[str] = set()
        self.opened: set[str] = set()
        """Accounts that entries of the stream open."""
        self.found = 0
        """Accounts that either store knew."""

    async def accounts(self, names: Sequence[str] = ()) -> None:
        """Compare accounts by name, known to Postgres or not, and the shard itself.

        Raises NotComparable, wire.WireError and what asyncpg raises.
        """
        left, why = list(names), ""
        for attempt in range(_TRIES):
            await asyncio.sleep(attempt * _PAUSE_S)
            try:
                left = await self._look(left)
                why = "it is written to without a pause"
                if not left:
                    return
            except Moved as moved:
                why = str(moved)
        if not names:
            self.report.skip(f"shard {self._number}: {why}")
        for name in left:
            self.report.skip(f"account {name}: {why}")

    def rest(self) -> None:
        """Forget the stream until it is needed again: it may be long."""
        self._stream = _Stream()

    async def _look(self, names: list[str]) -> list[str]:
        """One look; answers the accounts that moved meanwhile. Raises Moved where all did."""
        settled_before = int(await self._ask_one("HGET", self._keys.meta, "settled") or 0)
        async with (
            self._pool.acquire() as conn,
            conn.transaction(isolation="repeatable_read", readonly=True),
        ):
            await conn.execute(sql("reconcile_patience"))
            row = await conn.fetchrow(sql("reconcile_shard"), self._number)
            self._check_shard(row, settled_before)
            settled = await self._settled(conn, names)
            live, moved = await self._live(names)
            await self._read_stream(row)
            folds = self._folds(live)
            await self._named_records(conn, settled, folds)
        await self._live_records(live, settled, folds)
        await self._read_stream(row)
        later = self._later(live)
        for name, fold in folds.items():
            change = fold.accounts.get(name)
            if not live[name].acct and change and change.last_seq <= self._redis_settled:
                moved.add(name)  # evicted, which is right: it was settled meanwhile
            else:
                self._compare(name, settled[name], live[name], fold, later.get(name, []))
        return sorted(moved)

    def _check_shard(self, row: Any, settled_before: int) -> None:
        if row["state"] != "open":
            why = f" ({row['state_reason']})" if row["state_reason"] else ""
            raise NotComparable(f"shard {self._number} is {row['state']}{why}")
        self.report.marks[self._number] = row["mark"]
        if settled_before > row["mark"]:
            self._fault(
                "settled",
                f"Redis has settled up to entry {settled_before}, the journal up to {row['mark']}",
            )

    def _fault(self, check: str, detail: str) -> None:
        """A fault of the shard, told once."""
        if check not in self._faults:
            self._faults.add(check)
            self.report.differ(check, detail, shard=self._number)

    # Postgres

    async def _settled(self, conn: Connection, names: list[str]) -> dict[str, Settled]:
        found = {name: Settled(None) for name in names}
        for row in await conn.fetch(sql("reconcile_accounts"), names):
            found[row["account"]].row = row
        for row in await conn.fetch(sql("reconcile_grants"), names):
            grant = (row["expires_ms"], row["priority"], row["remaining"])
            found[row["account"]].grants[row["id"]] = grant
        for row in await conn.fetch(sql("reconcile_members"), names):
            found[row["account"]].members[row["member"]] = limits_of(row)
        records = (sql("reconcile_records"), names, self._whole, float(self._window_s))
        for row in await conn.fetch(*records):
            found[row["account"]].records[row["key"]] = fields_of(row["fields"])
        return found

    async def _named_records(
        self, conn: Connection, settled: dict[str, Settled], folds: dict[str, Fold]
    ) -> None:
        """Records that only unsettled entries tell of: they ended long ago, and were refunded."""
        wanted = [
            name
            for account, fold in folds.items()
            for name, change in fold.records.items()
            if not change.new and name[1] not in settled[account].records
        ]
        if wanted:
            columns = zip(*wanted, strict=True)
            for row in await conn.fetch(sql("reconcile_records_named"), *columns):
                settled[row["account"]].records[row["key"]] = fields_of(row["fields"])

    # Redis

    async def _live(self, names: list[str]) -> tuple[dict[str, Live], set[str]]:
        """Accounts as Redis has them, and the names of those that moved while they were read."""
        keys = self._keys
        answers = await self._ask(
            command
            for name in names
            for command in (
                ("HGETALL", keys.acct(name)),
                ("ZRANGE", keys.open(name), 0, -1, "WITHSCORES"),
                ("HGETALL", keys.members(name)),
                ("ZSCORE", keys.due, name),
                ("PTTL", keys.acct(name)),
                ("PTTL", keys.open(name)),
                ("HGET", keys.acct(name), "version"),
            )
        )
        found, moved = {}, set()
        for place, name in enumerate(names):
            acct, opens, members, due, *ttls, version = answers[7 * place : 7 * place + 7]
            one = Live(
                acct=_map(acct),
                opens={key: int(float(score)) for key, score in _map(opens).items()},
                members=_map(members),
                due_ms=None if due is None else float(due),
                expires=max(ttls) >= 0,
            )
            if int(version or 0) == one.version:
                found[name] = one
            else:
                moved.add(name)
        return found, moved

    async def _live_records(
        self, live: dict[str, Live], settled: dict[str, Settled], folds: dict[str, Fold]
    ) -> None:
        """Read the records that the tables, the stream or the open holds name."""
        wanted = []
        for name, fold in folds.items():
            if live[name].acct:
                changed = {key for _, key, _ in fold.records}
                known = settled[name].records.keys() | live[name].opens.keys() | changed
                wanted += [(name, key) for key in known]
        commands: list[tuple[Argument, ...]] = []
        for name, key in wanted:
            record = self._keys.record(name, key)
            commands += [("HGETALL", record), ("PTTL", record)]
        answers = await self._ask(commands)
        for place, (name, key) in enumerate(wanted):
            flat, ttl = answers[2 * place : 2 * place + 2]
            fields = live[name].records[key] = _map(flat)
            if fields.get("state") == "held" and ttl >= 0:
                live[name].expires = True
        self.report.records += len(wanted)

    def _later(self, live: dict[str, Live]) -> dict[str, list[Entry]]:
        """Entries that came after an account was read; its records may be read after them."""
        later: dict[str, list[Entry]] = {}
        for entry in self._stream.entries:
            there = live.get(entry.account)
            if there is not None and there.acct and entry.version > there.version:
                later.setdefault(entry.account, []).append(entry)
        return later

    async def _ask(self, commands: Iterable[tuple[Argument, ...]]) -> list[Any]:
        """The answers to commands on keys of this shard. Raises wire.WireError."""
        wire, slot = self._shards.wire, self._keys.slot
        answers: list[Any] = []
        pending: list[asyncio.Future[Any]] = []
        for command in commands:
            pending.append(wire.send(slot, *command))
            if len(pending) == _ASKED_MAX:
                answers += await asyncio.gather(*pending)
                pending = []
        return answers + list(await asyncio.gather(*pending))

    async def _ask_one(self, *command: Argument) -> Any:
        return (await self._ask([command]))[0]

    # The stream

    async def _read_stream(self, row: Any) -> None:
        """Bring the stream's entries behind the mark up to now. Raises Moved and NotComparable."""
        stream = self._stream
        stream.move(row["mark"], row["chain"])
        while True:
            last, chain = stream.last
            (nonce, seq), found, settled = await self._ask(
                [
                    ("HMGET", self._keys.meta, "nonce", "seq"),
                    ("XRANGE", self._keys.stream, f"({last}-0", "+", "COUNT", _STREAM_PAGE),
                    ("HGET", self._keys.meta, "settled"),
                ]
            )
            if (nonce or b"").decode() != row["nonce"]:
                raise NotComparable(f"shard {self._number}: Redis is in another generation")
            seq, self._redis_settled = int(seq or 0), int(settled or 0)
            if seq < row["mark"]:
                self._fault("seq", f"Redis ends at entry {seq}, the journal at {row['mark']}")
                return
            reading = verify(last, chain, found, seq=seq, limit=_STREAM_PAGE)
            stream.entries += reading.entries
            self.report.unsettled += len(reading.entries)
            if reading.broken is not None:
                if reading.broken.seq <= self._redis_settled:
                    raise Moved("what it is compared with was settled and trimmed meanwhile")
                self._fault("stream", reading.broken.detail)
                return
            if len(found) < _STREAM_PAGE or len(stream.entries) > _STREAM_MAX:
                return

    def _folds(self, live: dict[str, Live]) -> dict[str, Fold]:
        """Per account what its unsettled entries change, up to the version that Redis has."""
        folds = {name: Fold() for name in live}
        for entry in self._stream.entries:
            if entry.type == "open":
                self.opened.add(entry.account)
            fold = folds.get(entry.account)
            if fold is None:
                continue
            there = live[entry.account]
            # Of an account that Redis lacks all of them are looked at: it may have been evicted.
            if there.acct and entry.version > there.version:
                continue
            try:
                fold.add(self._number, entry)
            except Rejected as error:
                del folds[entry.account]
                if entry.account not in self._rejected:
                    self._rejected.add(entry.account)
                    detail = f"an entry that is not settled yet: {error}"
                    self._differ("stream", detail, entry.account)
        return folds

    # Compare

    def _compare(
        self, name: str, settled: Settled, live: Live, fold: Fold, later: list[Entry]
    ) -> None:
        row = settled.row
        if row is None and not live.acct and not fold.accounts:
            return
        self.found += 1
        self.report.accounts += 1
        if row is not None and row["quarantined"]:
            self.report.skip(f"account {name} is in quarantine")
            return
        for check, detail in in_tables(settled):
            self._differ(check, detail, name)
        change = fold.accounts.get(name)
        first, last = settled.version + 1, settled.version
        if change is not None:
            first, last = change.first_version, change.version
        if not live.acct and change is not None:
            self._differ(
                "redis", f"Redis lacks it, and its entry {change.last_seq} is not settled", name
            )
        elif live.acct and (first, last) != (settled.version + 1, live.version):
            stream = "nothing" if change is None else f"versions {first} to {last}"
            self._differ(
                "version",
                f"Redis has version {live.version}, the journal {settled.version}, and the stream"
                f" between them {stream}",
                name,
            )
        else:
            expected = expect(settled, name, fold)
            for check, detail in in_redis(expected, live, later, whole=self._whole):
                self._differ(check, detail, name)

    def _differ(self, check: str, detail: str, account: str) -> None:
        self.report.differ(check, detail, shard=self._number, account=account)


def _map(flat: list[bytes]) -> dict[str, str]:
    """A hash or a sorted set with scores, as the wire answers it."""
    return {
        name.decode(errors="replace"): value.decode(errors="replace")
        for name, value in zip(flat[::2], flat[1::2], strict=True)
    }
