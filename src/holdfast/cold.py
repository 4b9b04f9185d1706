"""Accounts and records that Redis does not have: read from the journal's side, loaded by script.

    cold ──one snapshot, with its mark──▶ parts (records, open holds, members) ──▶ acct ──▶ live

The snapshot's mark is what makes this safe: the scripts refuse it where something was evicted
after it was taken, or where the account is there already. An account loaded without all its recent
records (more than 500) is not *complete*: an unknown key of it is answered only with the record, or
with the mark at which the journal lacked it. Accounts under quarantine are not loaded.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson

from holdfast import replies
from holdfast.codes import Code
from holdfast.errors import Conflict, StoreUnavailable
from holdfast.gate import Gate
from holdfast.model import MAX_AMOUNT
from holdfast.postgres import Pool
from holdfast.queries import sql
from holdfast.shards import Argument, Shards
from holdfast.wire import ServerError, WireError

# Records that one load brings along. 500 at about 25 elements each are some 12,000 arguments in
# three calls: under 10 ms of Redis's time.
MAX_RECORDS = 500
_PART = 150  # items a `load_part` call; the script refuses more than 200
_TRIES = 4  # snapshots older than an eviction are read again; each later one is newer
# A record older than the window is brought back only to answer the call at hand.
_BRIEFLY_MS = 60_000


@dataclass(slots=True)
class Snapshot:
    """One account as Postgres has it, at `mark` of its shard."""

    mark: int
    account: asyncpg.Record | None
    used: asyncpg.Record | None
    members: list[asyncpg.Record]
    grants: list[asyncpg.Record]
    opens: list[asyncpg.Record]
    closed: list[asyncpg.Record]


class ColdLoader:
    """Loads accounts and single records; one load an account at a time, others wait for it."""

    def __init__(self, shards: Shards, gates: list[Gate], pool: Pool, window_ms: int) -> None:
        self._shards = shards
        self._gates = gates
        self._pool = pool
        self._window_ms = window_ms
        self._loading: dict[str, asyncio.Task[int | None]] = {}
        self._asked: dict[tuple[str, str], asyncio.Future[tuple[bool, int]]] = {}
        self._asking: set[asyncio.Task[None]] = set()

    async def load(self, account: str) -> int | None:
        """Load a cold account. Answers None when it is live, or the mark at which it was unknown.

        Raises StoreUnavailable where Postgres or Redis is away, Conflict for a quarantined one.
        """
        task = self._loading.get(account)
        if task is None:
            task = asyncio.create_task(self._load(account))
            self._loading[account] = task
            task.add_done_callback(lambda _task: self._loading.pop(account, None))
        return await asyncio.shield(task)

    async def _load(self, account: str) -> int | None:
        for _ in range(_TRIES):
            snapshot = await self._read(account)
            if snapshot.account is None:
                return snapshot.mark
            if snapshot.account["quarantined"]:
                raise _under_review()
            if await self._write(account, snapshot):
                return None
        raise StoreUnavailable("postgres", "the journal is behind what Redis has evicted")

    async def _read(self, account: str) -> Snapshot:
        number = self._shards.number_of(account)
        since = datetime.now(UTC) - timedelta(milliseconds=self._window_ms)
        async with (
            self._pool.acquire() as conn,
            conn.transaction(isolation="repeatable_read", readonly=True),
        ):
            row = await conn.fetchrow(sql("load_account"), number, account)
            if row is None:
                raise StoreUnavailable("postgres", "the database has no row for this shard")
            if row["account"] is None:
                return Snapshot(row["mark"], None, None, [], [], [], [])
            return Snapshot(
                mark=row["mark"],
                account=row,
                used=await conn.fetchrow(sql("load_used"), account),
                members=await conn.fetch(sql("load_members"), account),
                grants=await conn.fetch(sql("load_grants"), account),
                opens=await conn.fetch(sql("load_open_records"), account),
                closed=await conn.fetch(
                    sql("load_closed_records"), account, since, MAX_RECORDS + 1
                ),
            )

    def _nonce(self, number: int) -> str:
        """The generation that a whole load belongs to.

        Parts of one and the account of another would make an account complete whose records a
        rebuild has thrown away in between.
        """
        gate = self._gates[number]
        if gate.fenced:
            raise gate.refuse(gate.nonce)
        return gate.nonce

    async def _run(
        self, number: int, name: str, nonce: str, keys: list[bytes], args: list[Argument]
    ) -> bool:
        """Call a script of a load. True: it is done, or was by somebody else. False: the snapshot
        is older than something that was evicted. Raises Unavailable."""
        gate = self._gates[number]
        try:
            code, rest = await self._shards.run(number, name, nonce, keys, args)
        except WireError as error:
            if isinstance(error, ServerError) and error.code == "NOSCRIPT":
                raise gate.refuse(nonce) from None
            raise replies.unreachable(error) from error
        if code in (Code.OK, Code.EXISTS, Code.STALE):
            return code is not Code.STALE
        if code is Code.FENCED:
            raise gate.refuse(nonce)
        raise replies.refusal("load", code, rest)

    async def _write(self, account: str, snapshot: Snapshot) -> bool:
        """Parts, then the account. False: the snapshot was too old, read again."""
        number = self._shards.number_of(account)
        shard = self._shards.keys[number]
        complete = len(snapshot.closed) <= MAX_RECORDS
        parts = Parts(snapshot, self._window_ms, complete)
        nonce = self._nonce(number)
        first = "first"
        for opens, members, records in parts.chunks():
            keys = shard.of_account(account) + [shard.record(account, r[0]) for r in records]
            args: list[Argument] = [account, snapshot.mark, first]
            args += [len(opens), len(members), len(records)]
            args += [text for pair in opens for text in pair]
            args += [text for pair in members for text in pair]
            for _key, expire_at, fields in records:
                args += [expire_at, len(fields) // 2, *fields]
            if not await self._run(number, "load_part", nonce, keys, args):
                return False
            first = "more"
        args = [account, snapshot.mark, "1" if complete else "0", parts.next_due, *parts.acct()]
        return await self._run(number, "load", nonce, shard.of_account(account), args)

    async def bring_key(self, account: str, key: str) -> tuple[bool, int]:
        """Bring one record that a live account lacks. Lookups of one tick share a query.

        Answers (True, mark) where the record is in Redis now, (False, mark) where the journal
        lacked it at that mark.
        """
        asked = self._asked.get((account, key))
        if asked is None:
            asked = asyncio.get_running_loop().create_future()
            if not self._asked:
                task = asyncio.create_task(self._ask())
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)
            self._asked[(account, key)] = asked
        return await asyncio.shield(asked)

    async def _ask(self) -> None:
        await asyncio.sleep(0)  # the rest of this tick's callers join
        asked, self._asked = self._asked, {}
        pairs = list(asked)
        try:
            async with self._pool.acquire() as conn:
                rows = await conn.fetch(
                    sql("load_keys"),
                    [self._shards.number_of(account) for account, _ in pairs],
                    [account for account, _ in pairs],
                    [key for _, key in pairs],
                )
        except Exception as error:
            for future in asked.values():
                _fail(future, error)
            return
        for row in rows:
            future = asked[(row["account"], row["key"])]
            try:
                found = await self._bring(row)
            except Exception as error:  # of this account or its shard, no matter to the others
                _fail(future, error)
            else:
                if not future.done():
                    future.set_result((found, row["mark"]))

    async def _bring(self, row: asyncpg.Record) -> bool:
        """Load a record, if there is one. Of an account in quarantine nothing is sure: what was
        diverted is below the mark, and in no record."""
        if row["quarantined"]:
            raise _under_review()
        if row["fields"] is None:
            return False
        if row["state"] == "held":
            # An open hold is in Redis whenever its account is: it has ended there since.
            raise StoreUnavailable("postgres", "the journal is behind Redis; try again")
        account, key = row["account"], row["key"]
        number = self._shards.number_of(account)
        shard = self._shards.keys[number]
        fields = _flat(row["fields"])
        now_ms = datetime.now(UTC).timestamp() * 1000
        expire_at = int(max(row["ended_ms"] + self._window_ms, now_ms + _BRIEFLY_MS))
        keys = [*shard.of_account(account), shard.record(account, key)]
        args: list[Argument] = [account, row["mark"], "record", 0, 0, 1]
        nonce = self._nonce(number)
        args += [expire_at, len(fields) // 2, *fields]
        if not await self._run(number, "load_part", nonce, keys, args):
            raise StoreUnavailable("postgres", "the journal is behind Redis; try again")
        return True


def _fail(future: asyncio.Future[tuple[bool, int]], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # a caller that was cancelled no longer looks


def _under_review() -> Conflict:
    return Conflict("the account is under review by an operator", "account_frozen")


def _flat(fields: str) -> list[str]:
    return [text for pair in orjson.loads(fields).items() for text in pair]


_PLAIN = (
    "status",
    "version",
    "last_seq",
    "base",
    "available",
    "held",
)
_WHERE_SET = (
    "last_grant_seq",
    "last_refund_seq",
    "debt",
    "granted",
    "refunded",
    "spent",
    "forfeited",
)
_SETTINGS = (
    "overdraft_limit",
    "daily_limit",
    "monthly_limit",
    "max_hold",
    "max_open_holds",
    "low_balance",
    "plan",
    "models",
    "metadata",
)


class Parts:
    """A snapshot as the arguments of the load scripts."""

    def __init__(self, snapshot: Snapshot, window_ms: int, complete: bool) -> None:
        self._snapshot = snapshot
        closed = snapshot.closed if complete else []
        self._records: list[tuple[str, Argument, list[str]]] = [
            (row["key"], "", _flat(row["fields"])) for row in snapshot.opens
        ]
        known = {row["key"] for row in snapshot.opens}
        for row in closed:  # newest first: an older row of the same key is history
            if row["key"] not in known:
                known.add(row["key"])
                self._records.append(
                    (row["key"], row["ended_ms"] + window_ms, _flat(row["fields"]))
                )
        deadlines = [row["deadline_ms"] for row in snapshot.opens]
        deadlines += [row["expires_ms"] for row in snapshot.grants]
        self.next_due: Argument = min(deadlines) if deadlines else ""

    def chunks(self) -> list[tuple[list[Any], list[Any], list[Any]]]:
        """Open holds, members and records in calls of at most 150 items; at least one call."""
        opens = [(row["key"], row["deadline_ms"]) for row in self._snapshot.opens]
        members = [pair for row in self._snapshot.members for pair in _member(row)]
        chunks: list[tuple[list[Any], list[Any], list[Any]]] = []
        for i in range(0, len(opens), _PART):
            chunks.append((opens[i : i + _PART], [], []))
        for i in range(0, len(members), _PART):
            chunks.append(([], members[i : i + _PART], []))
        for i in range(0, len(self._records), _PART):
            chunks.append(([], [], self._records[i : i + _PART]))
        return chunks or [([], [], [])]

    def acct(self) -> list[Argument]:
        """The acct hash, name and value in turn."""
        row = self._snapshot.account
        assert row is not None
        fields: list[Argument] = []
        for name in _PLAIN:
            fields += [name, row[name]]
        for name in _WHERE_SET:
            if row[name]:
                fields += [name, row[name]]
        for name in _SETTINGS:
            if row[name] is not None:
                fields += [name, row[name]]
        fields += ["opened", round(row["opened_at"].timestamp() * 1000)]
        if self._snapshot.used is not None:
            used = self._snapshot.used
            fields += ["day", used["day"], "used_day", _bounded(used["used_day"])]
            fields += ["month", used["day"] // 100, "used_month", _bounded(used["used_month"])]
        if self._snapshot.grants:
            fields += ["grants", len(self._snapshot.grants)]
        for grant in self._snapshot.grants:
            text = f"{grant['expires_ms']} {grant['priority']} {grant['remaining']}"
            fields += [f"g:{grant['id']}", text]
        return fields


def _bounded(used: int) -> int:
    """As lua/lib/limits.lua counts: neither below 0 nor above what a limit can be."""
    return min(max(used, 0), MAX_AMOUNT)


def _member(row: asyncpg.Record) -> list[tuple[str, str]]:
    pairs = []
    if row["has_limits"]:
        limits = (row["daily_limit"], row["monthly_limit"], row["max_hold"])
        text = " ".join("-" if limit is None else str(limit) for limit in limits)
        pairs.append((f"{row['member']}/limits", text))
    if row["day"] is not None:
        used_day, used_month = _bounded(row["used_day"]), _bounded(row["used_month"])
        text = f"{row['day']} {used_day} {row['day'] // 100} {used_month}"
        pairs.append((f"{row['member']}/used", text))
    return pairs
