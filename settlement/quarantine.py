"""Quarantine: entries that Postgres rejects, and the way out of it.

States of an account: in order ──an entry is rejected──▶ in quarantine ──apply or void──▶ in order.

In quarantine the shard goes on, the account does not: the journal holds its entries raw, the tables
none of them, nobody loads or evicts it, and `Freezer` freezes it in Redis, so that it spends no
more. Redis goes on to serve what was authorised; that is diverted as well. An operator looks at the
first entry (`listing` has the reason) and ends it, for all entries of the account in one
transaction, in order, or not at all:

    mend    gives another text for an entry, which is read instead of what Redis wrote. The journal
            keeps what Redis wrote, for the chain is computed over it.
    apply   takes every entry as it is read. For when the release that rejected it was wrong, or the
            entry was mended.
    void    does not believe the amounts of an entry: the balances are set to what it says they
            were afterwards, which is what Redis has, and the difference is booked in `granted`, as
            an adjustment would be. What it says of records, grants, members and settings is taken
            over. An entry that cannot be read says nothing; then the one after it tells.

Both are audited: who and when in the row of each entry, `correction` with what a void booked, and
an incident. The account stays frozen; `holdfast reconcile` says whether its books agree before an
operator thaws it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from holdfast import audit
from holdfast.codes import Code
from holdfast.keys import is_id
from holdfast.shards import Argument
from holdfast.telemetry import Sampler, log
from holdfast.wire import WireError
from settlement import events, incidents
from settlement.audited import record_entries
from settlement.fold import Fold
from settlement.journal import REJECTIONS, row_of
from settlement.queries import Connection, Pool, sql
from settlement.reader import Entry, raw_bytes, read_entry
from settlement.state import WorkerState
from settlement.tables import apply as apply_to_tables
from settlement.tables import apply_but_balances

PAGE_MAX: Final = 1000
_FREEZE_PAUSE_S: Final = 2.0
# What a freeze may meet without there being anything left to do: it is not in Redis (and nobody
# loads it), or it is closed.
_FROZEN_ENOUGH: Final = frozenset({Code.OK, Code.MISS, Code.CLOSED})


class QuarantineError(Exception):
    """An operator's wish that cannot be done; nothing was changed. The message says why."""


@dataclass(slots=True)
class _Pending:
    """One entry that waits, as it is read now."""

    id: int
    shard: int
    entry: Entry
    correction: dict[str, int] | None = None


async def listing(
    conn: Connection,
    *,
    account: str | None = None,
    only_open: bool = False,
    before: int | None = None,
    limit: int = 100,
) -> list[dict[str, Any]]:
    """Quarantined entries, newest first; `before` is the last id of the previous page."""
    rows = await conn.fetch(
        sql("quarantine_list"), account, only_open, before, max(1, min(limit, PAGE_MAX))
    )
    return [
        dict(row) | {"correction": row["correction"] and orjson.loads(row["correction"])}
        for row in rows
    ]


async def mend(pool: Pool, number: int, text: str, actor: str) -> None:
    """Read `text` instead of a quarantined entry from now on. Raises QuarantineError."""
    async with pool.acquire() as conn, conn.transaction():
        row = await conn.fetchrow(sql("quarantine_account"), number)
        if row is None or row["state"] != "open" or row["origin"] == "lost":
            raise QuarantineError(f"there is no open entry {number} in quarantine")
        entry = read_entry(row["seq"], row["chain"], text.encode())
        if entry.error:
            raise QuarantineError(f"that text is no entry: {entry.error}")
        if not is_id(entry.account) or row["account"] not in ("", entry.account):
            raise QuarantineError(f"that text is not of account {row['account']!r}")
        await conn.execute(sql("quarantine_mend"), number, text, entry.account)
        await incidents.record(
            conn,
            "quarantine_ended",
            f"{actor} mended entry {row['seq']} of shard {row['shard']}",
            shard=row["shard"],
            account=entry.account,
            was=row["entry"],
            mended=text,
            actor=actor,
        )
        await audit.record(
            conn,
            actor=actor,
            action="quarantine.mend",
            subject=f"quarantine:{number}",
            account=entry.account,
            before={"entry": row["entry"]},
            after={"entry": text},
        )


async def apply(pool: Pool, number: int, actor: str) -> int:
    """Apply all that the account of this quarantined entry has waiting; answers how many entries.

    Raises QuarantineError, and what asyncpg raises where Postgres is away.
    """
    return await _end(pool, [number], actor, void=False, reason="")


async def void(pool: Pool, numbers: Sequence[int], reason: str, actor: str) -> int:
    """Void these quarantined entries of one account, and apply all others that it has waiting.

    Answers how many entries ended. Raises QuarantineError, and what asyncpg raises.
    """
    return await _end(pool, numbers, actor, void=True, reason=reason)


async def _end(pool: Pool, numbers: Sequence[int], actor: str, *, void: bool, reason: str) -> int:
    async with pool.acquire() as conn:
        try:
            async with conn.transaction():
                account = await _account_of(conn, numbers)
                await conn.fetch(sql("quarantine_lock"), account)
                pending = [
                    _Pending(
                        row["id"],
                        row["shard"],
                        read_entry(row["seq"], row["chain"], raw_bytes(row["entry"])),
                    )
                    for row in await conn.fetch(sql("quarantine_open"), account)
                ]
                voided = set(numbers) if void else set()
                if account:
                    await conn.execute(sql("account_quarantine"), account, False)
                    applied = [item.entry for item in pending if item.id not in voided]
                    await record_entries(conn, applied)
                    await _take(conn, pending, voided)
                else:
                    pending = _unknown(pending, numbers, void=void)
                await _note_end(conn, account, pending, voided, actor=actor, reason=reason)
        except REJECTIONS as error:
            raise QuarantineError(f"nothing was changed: {error}") from error
    log("quarantine_ended", account=account, entries=len(pending), voided=len(voided), actor=actor)
    return len(pending)


async def _account_of(conn: Connection, numbers: Sequence[int]) -> str:
    accounts = set()
    for number in numbers:
        row = await conn.fetchrow(sql("quarantine_account"), number)
        if row is None or row["state"] != "open" or row["origin"] == "lost":
            raise QuarantineError(f"there is no open entry {number} in quarantine")
        accounts.add(row["account"])
    if len(accounts) != 1:
        raise QuarantineError("these entries are not of one account")
    account: str = accounts.pop()
    return account


def _unknown(pending: list[_Pending], numbers: Sequence[int], *, void: bool) -> list[_Pending]:
    """Entries of nobody known can only be voided, which changes no table."""
    if not void:
        raise QuarantineError("this entry does not tell its account: mend it first, or void it")
    return [item for item in pending if item.id in numbers]


async def _take(conn: Connection, pending: list[_Pending], voided: Collection[int]) -> None:
    """Bring the tables to where the last entry ends. Raises REJECTIONS and QuarantineError."""
    fold = Fold()
    for place, item in enumerate(pending):
        if item.id in voided:
            await _apply(conn, fold)
            fold = Fold()
            following = pending[place + 1].entry if place + 1 < len(pending) else None
            item.correction = await _correct(conn, item, following)
        else:
            fold.add(item.shard, item.entry)
    await _apply(conn, fold)
    applied = [item for item in pending if item.id not in voided]
    await events.emit_entries(conn, [(item.shard, item.entry) for item in applied])
    for shard in {item.shard for item in applied}:
        rows = [row_of(shard, item.entry, False, 0) for item in applied if item.shard == shard]
        if rows:
            # Of the journal's columns: seq to held.
            columns = list(zip(*rows, strict=True))[1:12]
            await conn.execute(sql("journal_release"), shard, *columns)


async def _apply(conn: Connection, fold: Fold) -> None:
    if fold.accounts:
        fold.check()
        await apply_to_tables(conn, fold)


async def _correct(conn: Connection, item: _Pending, following: Entry | None) -> dict[str, int]:
    """Set the account to where a voided entry leaves it; answers what was booked for that."""
    entry = item.entry
    if not entry.error:
        fold = Fold()
        fold.add(item.shard, entry)
        await apply_but_balances(conn, fold)
        account, after = entry.account, (entry.version, entry.available, entry.held)
    elif following is not None and not following.error:
        moved = Fold()
        moved.add(item.shard, following)
        change = moved.accounts[following.account]
        account = following.account
        after = (
            change.version - 1,
            change.available - change.moved,
            change.held - change.by["held"],
        )
    else:
        raise QuarantineError(
            f"nothing tells where entry {entry.seq} leaves its account: mend it, or void it"
            " together with what follows"
        )
    version, available, held = after
    row = await conn.fetchrow(sql("account_correct"), account, version, entry.seq, available, held)
    if row is None:
        raise QuarantineError(f"account {account} is not known: mend the entry that opens it")
    return dict(row) | {"version": version, "available": available}


async def _note_end(
    conn: Connection,
    account: str,
    pending: Sequence[_Pending],
    voided: Collection[int],
    *,
    actor: str,
    reason: str,
) -> None:
    states = ["voided" if item.id in voided else "applied" for item in pending]
    corrections = [
        None if item.correction is None else orjson.dumps(item.correction).decode()
        for item in pending
    ]
    await conn.execute(
        sql("quarantine_end"), [item.id for item in pending], states, corrections, actor
    )
    await conn.execute(sql("quarantine_incidents"), account, actor)
    await incidents.record(
        conn,
        "quarantine_ended",
        f"{actor} applied {states.count('applied')} and voided {states.count('voided')} entries",
        account=account or None,
        shard=pending[0].shard if pending else None,
        seqs=[item.entry.seq for item in pending][:PAGE_MAX],
        voided=[item.entry.seq for item in pending if item.id in voided],
        corrections=[item.correction for item in pending if item.correction is not None],
        actor=actor,
        reason=reason,
    )
    await audit.record_rows(
        conn,
        [
            audit.Row(
                audit.Caller(actor),
                "quarantine.void" if state == "voided" else "quarantine.apply",
                f"quarantine:{item.id}",
                account or None,
                before={"state": "open", "entry": item.entry.text},
                after={"state": state, "correction": item.correction, "reason": reason or None},
            )
            for item, state in zip(pending, states, strict=True)
        ],
    )


class Freezer:
    """The service that freezes, in Redis, the accounts of this worker's shards in quarantine.

    What it does is noted in Postgres afterwards, so it is done at least once; a second freeze
    changes nothing. Failures: Redis refuses or is away: the next round; Postgres away: raised.
    """

    def __init__(self, state: WorkerState, wake: asyncio.Event) -> None:
        self.state = state
        self._wake = wake
        self._sampler = Sampler()

    async def run(self) -> None:
        """A round when there is news, and every 2 s, until cancelled."""
        while True:
            self._wake.clear()
            await self.round()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _FREEZE_PAUSE_S)

    async def round(self) -> None:
        """Freeze what is not frozen yet, at most 100 accounts."""
        state = self.state
        numbers = [row.number for row in state.claimed("open")]
        async with state.pool.acquire() as conn:
            for row in await conn.fetch(sql("quarantine_unfrozen"), numbers):
                if await self._freeze(row["shard"], row["account"], row["seq"]):
                    await conn.execute(sql("quarantine_frozen"), row["account"])
                    log("account_frozen", account=row["account"], shard=row["shard"])

    async def _freeze(self, number: int, account: str, seq: int) -> bool:
        context = {
            "request_id": f"quarantine-{number}-{seq}",
            "actor": "worker",
            "reason": f"entry {seq} was rejected by Postgres",
        }
        keys = self.state.shards.keys[number].of_account(account)[:7]
        args: list[Argument] = [account, orjson.dumps(context), "status", "frozen"]
        try:
            code, _ = await self.state.shards.run(
                number, "settings", self.state.rows[number].nonce, keys, args
            )
        except WireError as error:
            self._sampler.log("shard_not_read", type(error).__name__, error=str(error))
            return False
        return code in _FROZEN_ENOUGH
