"""Settles verified entries: journal, tables and mark in one Postgres transaction, or nothing.

    SettleError
    ├── Fenced            the shard is not where this batch starts: somebody else was faster
    └── JournalForked     the journal has another entry under one of its numbers

Batches of several shards share a transaction. Its last statement moves the marks by compare-and-set
on generation, nonce, mark and state; a shard that does not move is fenced, and all is rolled back.
Where one shard fails, each is tried alone. A batch that Postgres rejects is halved until the entry
is alone; that one is journaled raw and quarantined, and the shard goes on. Errors that are not an
entry's fault (connection, resources, a missing table) are raised as they come: then the batch is
discarded and, if COMMIT had been sent, its outcome is unknown until the mark is read again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg

from holdfast.keys import is_id
from settlement import events, failpoints, incidents
from settlement.audited import record_entries
from settlement.fold import Fold, Rejected
from settlement.queries import Connection, sql
from settlement.reader import Entry
from settlement.state import StateName
from settlement.tables import apply

# What Postgres (or asyncpg, before it sends) says when it is the data that it does not take:
# classes 22 and 23, a row that is too large for an index, a trigger that raises.
REJECTIONS: Final = (
    Rejected,
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.RaiseError,
)

# A NOTIFY takes less than 8,000 bytes. It is a hint: where it would be longer, it says nothing.
_NOTICE_MAX: Final = 7900
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_COLUMNS: Final = (
    *("shard", "seq", "at", "account", "version", "type", "hold", "key", "member", "amount"),
    *("available", "held", "quarantined", "chain", "entry"),
)

# What Postgres says of a rejection quotes the data, which may be long.
_ERROR_MAX: Final = 2000


class SettleError(Exception):
    """A batch was not settled, and nothing of it was written."""


class Fenced(SettleError):
    """The shard is in another generation or state, or its mark is not where the batch starts."""


class JournalForked(SettleError):
    """The journal has another entry under a number of this batch, though the mark is before it."""


@dataclass(slots=True)
class ShardBatch:
    """Entries of one shard that follow its mark, verified, at least one."""

    number: int
    generation: int
    nonce: str
    mark: int
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one shard's batch.

    Without an error the mark is that of its last entry. With one, entries up to `mark` are settled
    and the rest is not; the row in Postgres is to be read again.
    """

    number: int
    mark: int
    chain: str
    quarantined: tuple[str, ...] = ()
    """Accounts that this settle put into quarantine."""
    error: SettleError | None = None


async def settle(
    conn: Connection,
    batches: Sequence[ShardBatch],
    *,
    states: Sequence[StateName] = ("open",),
) -> list[Outcome]:
    """Settle batches of different shards, in shard order; answers what became of each.

    `states` are those a shard may be in. Raises what asyncpg raises where it is not an entry's
    fault, and OSError.
    """
    batches = sorted(batches, key=lambda batch: batch.number)
    if not batches:
        return []
    try:
        await _settle(conn, batches, states)
    except (SettleError, *REJECTIONS) as error:
        if len(batches) == 1:
            return [await _alone(conn, batches[0], states, error)]
    else:
        return [_settled(batch) for batch in batches]
    outcomes = []
    for batch in batches:
        outcomes += await settle(conn, [batch], states=states)
    return outcomes


def _settled(batch: ShardBatch, quarantined: tuple[str, ...] = ()) -> Outcome:
    last = batch.entries[-1]
    return Outcome(batch.number, last.seq, last.chain, quarantined)


async def _alone(
    conn: Connection, batch: ShardBatch, states: Sequence[StateName], error: Exception
) -> Outcome:
    """One shard that did not settle: find the entry that is rejected, and settle all others."""
    nothing = Outcome(batch.number, batch.mark, "")
    if isinstance(error, SettleError):
        return replace(nothing, error=error)
    try:
        if len(batch.entries) == 1:
            await _quarantine(conn, batch, states, error)
            return _settled(batch, (batch.entries[0].account,))
        async with conn.transaction():
            await _fence(conn, batch, states)
    except SettleError as fenced:
        return replace(nothing, error=fenced)
    # Each half may hold more of them: at most log2 of the batch deep, a transaction a step.
    middle = len(batch.entries) // 2
    first = replace(batch, entries=batch.entries[:middle])
    second = replace(batch, entries=batch.entries[middle:], mark=first.entries[-1].seq)
    quarantined: tuple[str, ...] = ()
    outcome = nothing
    for half in (first, second):
        outcome = (await settle(conn, [half], states=states))[0]
        quarantined += outcome.quarantined
        if outcome.error is not None:
            break
    return replace(outcome, quarantined=quarantined)


async def _settle(
    conn: Connection, batches: Sequence[ShardBatch], states: Sequence[StateName]
) -> None:
    """All of it, or nothing. Raises SettleError, REJECTIONS, and what is no entry's fault.

    COPY costs half of an INSERT, but fails where a number is taken: then the same again with an
    INSERT that lets it be, and compares.
    """
    try:
        await _attempt(conn, batches, states, copy=True)
    except asyncpg.UniqueViolationError as error:
        if not error.table_name.startswith("journal"):
            raise
        await _attempt(conn, batches, states, copy=False)


async def _attempt(
    conn: Connection, batches: Sequence[ShardBatch], states: Sequence[StateName], *, copy: bool
) -> None:
    transaction = conn.transaction()
    try:
        await transaction.start()
        failpoints.hit("begin")
        numbers = [batch.number for batch in batches]
        gate = {row["account"] for row in await conn.fetch(sql("quarantine_gate"), numbers)}
        fold = Fold()
        for batch in batches:
            for entry in batch.entries:
                if entry.account not in gate:
                    fold.add(batch.number, entry)
        fold.check()
        await _insert(conn, batches, gate, copy=copy)
        if gate:
            await _divert(conn, batches, gate)
        await record_entries(
            conn, [e for batch in batches for e in batch.entries if e.account not in gate]
        )
        failpoints.hit("insert")
        await apply(conn, fold)
        taken = ((b.number, e) for b in batches for e in b.entries if e.account not in gate)
        await events.emit_entries(conn, taken)
        await _move_marks(conn, batches, states)
    except BaseException as error:
        await _roll_back(conn, transaction, error)
        raise
    try:
        await failpoints.hit_during("commit_sent", transaction.commit())
    except TimeoutError:
        conn.terminate()
        raise
    failpoints.hit("commit_ok")


async def _roll_back(conn: Connection, transaction: Any, error: BaseException) -> None:
    """End a transaction that failed. Where its connection is gone, the server has ended it."""
    if isinstance(error, TimeoutError):
        conn.terminate()  # nobody answers there: a ROLLBACK would wait as long again
        return
    with contextlib.suppress(asyncpg.InterfaceError, asyncpg.PostgresConnectionError, OSError):
        await transaction.rollback()


async def _insert(
    conn: Connection, batches: Sequence[ShardBatch], gate: set[str], *, copy: bool
) -> None:
    """The journal's rows, of the accounts in `gate` raw. Raises Rejected and JournalForked."""
    now_ms = int(time.time() * 1000)  # for entries that do not tell
    rows = [
        row_of(batch.number, entry, entry.account in gate, now_ms)
        for batch in batches
        for entry in batch.entries
    ]
    if copy:
        await conn.copy_records_to_table("journal", records=rows, columns=_COLUMNS)
    elif await conn.fetchval(sql("journal_insert"), *zip(*rows, strict=True)) != len(rows):
        await _compare(conn, batches)


def row_of(number: int, entry: Entry, diverted: bool, now_ms: int) -> tuple[Any, ...]:
    """An entry's row, in the order of `_COLUMNS`; `now_ms` is for one that does not tell its time.

    Raises Rejected for a time that no calendar has.
    """
    try:
        at = _EPOCH + timedelta(milliseconds=entry.at or now_ms)
    except OverflowError as error:
        raise Rejected(f"entry {entry.seq} is of the time {entry.at} ms") from error
    return (
        number,
        entry.seq,
        at,
        entry.account,
        entry.version or None,
        entry.type,
        entry.hold or (entry.key if entry.type == "reserve" else None),
        entry.key,
        entry.member,
        entry.amount,
        None if entry.error else entry.available,
        None if entry.error else entry.held,
        diverted,
        entry.chain,
        entry.text,
    )


async def _compare(conn: Connection, batches: Sequence[ShardBatch]) -> None:
    """Some numbers were taken: fine if by the same entries, else raises JournalForked."""
    for batch in batches:
        seqs = [entry.seq for entry in batch.entries]
        rows = await conn.fetch(sql("journal_chains"), batch.number, seqs)
        chains = {row["seq"]: row["chain"] for row in rows}
        for entry in batch.entries:
            if chains.get(entry.seq) != entry.chain:
                raise JournalForked(
                    f"shard {batch.number}: entry {entry.seq} of the journal has the chain"
                    f" {chains.get(entry.seq)}, the stream's {entry.chain}"
                )


async def _move_marks(
    conn: Connection, batches: Sequence[ShardBatch], states: Sequence[StateName]
) -> None:
    """Last: the compare-and-set that decides. Raises Fenced."""
    notice = " ".join(f"{batch.number}:{batch.entries[-1].seq}" for batch in batches)
    moved = await conn.fetchval(
        sql("shard_mark"),
        [batch.number for batch in batches],
        [batch.generation for batch in batches],
        [batch.nonce for batch in batches],
        [batch.mark for batch in batches],
        [batch.entries[-1].seq for batch in batches],
        [batch.entries[-1].chain for batch in batches],
        list(states),
        notice if len(notice) <= _NOTICE_MAX else "",
    )
    fenced = {batch.number for batch in batches} - set(moved or ())
    if fenced:
        raise Fenced(f"shards {sorted(fenced)} are not where this batch starts")


async def _fence(conn: Connection, batch: ShardBatch, states: Sequence[StateName]) -> None:
    """Keep everybody else from the shard until the transaction ends. Raises Fenced."""
    here = (batch.number, batch.generation, batch.nonce, batch.mark, list(states))
    if await conn.fetchval(sql("shard_fence"), *here) is None:
        raise Fenced(f"shard {batch.number} is not where this batch starts")


async def _divert(conn: Connection, batches: Sequence[ShardBatch], gate: set[str]) -> None:
    """Keep what follows a rejected entry on its account for an operator."""
    for batch in batches:
        follows = [entry for entry in batch.entries if entry.account in gate]
        if follows:
            await _keep(conn, batch, follows, "follows", "its account is in quarantine")


async def _keep(
    conn: Connection, batch: ShardBatch, entries: list[Entry], origin: str, error: str
) -> None:
    await conn.execute(
        sql("quarantine_insert"),
        batch.number,
        batch.generation,
        origin,
        [entry.seq for entry in entries],
        [entry.account for entry in entries],
        [entry.text for entry in entries],
        [entry.chain for entry in entries],
        [error] * len(entries),
    )


async def _quarantine(
    conn: Connection, batch: ShardBatch, states: Sequence[StateName], error: Exception
) -> None:
    """Journal the one entry of `batch` raw, and divert its account from here on."""
    entry = batch.entries[0]
    why = f"{type(error).__name__}: {error}"[:_ERROR_MAX]
    account = entry.account if is_id(entry.account) else ""
    raw = Entry(entry.seq, entry.chain, entry.text, type="rejected", account=account, error=why)
    async with conn.transaction():
        # What was rejected may have been settled by another worker meanwhile: then it is no fault.
        await _fence(conn, batch, states)
        await _insert(conn, [replace(batch, entries=[raw])], {account}, copy=False)
        await _keep(conn, batch, [raw], "rejected", why)
        await conn.execute(sql("account_quarantine"), account, True)
        await incidents.record(
            conn,
            "quarantine",
            f"entry {entry.seq} of shard {batch.number} was rejected: {why}",
            shard=batch.number,
            account=account or None,
            seq=entry.seq,
            generation=batch.generation,
        )
        await _move_marks(conn, [batch], states)
