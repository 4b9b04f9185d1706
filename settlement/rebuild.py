"""Throws a shard of Redis away and starts it again at the journal's mark, all accounts cold.

    settle the valid prefix ─▶ keep the rest (quarantine, `lost`), state `rebuilding`, incident
    ─▶ delete the shard's keys until a SCAN finds none ─▶ restart `meta`, stream and `due`

Quarantine, state and incident are one transaction, before the first key goes: from then on the
shard's state says that what is left in Redis is a remnant, and whoever finds it so deletes on. So
does `meta.remnant`, written with the first deletion and cleared by the restart, for a Postgres that
went back has forgotten it, and a copy of Redis from half way may come back long after.
Every step names the generation's nonce; one that was overtaken raises Superseded.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast import audit
from holdfast.keys import is_id
from holdfast.telemetry import log
from holdfast.wire import ServerError
from settlement import failpoints, incidents
from settlement.generation import Declared, Generation
from settlement.journal import ShardBatch, settle
from settlement.queries import sql
from settlement.reader import raw_text, read_entry, verify
from settlement.verdict import Mark, Superseded, Verdict

# B2 of lua/lib/fence.lua: a shard never has more unsettled entries. So much can be gone at most
# where Redis lost its own numbers.
UNSETTLED_MAX = 80_000
# Stream entries a page, and rows an INSERT: about half a megabyte.
_PAGE = 500
_SCAN_COUNT = 1000  # keys looked at a call, about 1 ms of Redis's time
_DELETE_KEYS = 500  # keys a `delete` call; UNLINK frees them elsewhere
# A pass that finds keys is followed by another. Nothing writes to a shard without a lease, so the
# second finds none; more are for what an operator writes by hand meanwhile.
_PASSES = 10
_DUE_PAGE = 1000  # accounts a `restart` call, 2,000 arguments
_ACCOUNTS_NAMED = 100  # accounts that an incident names; quarantine has them all
_BIGINT_MAX = 2**63 - 1

_ENTRY_ID = re.compile(rb"(\d{1,20})-\d+")


class NotEmptied(Exception):
    """Keys of a shard appear as fast as they are deleted: somebody writes to it by hand."""


@dataclass(slots=True)
class Loss:
    """What a rebuild takes from Redis that the journal does not have."""

    mark: Mark
    """Where the journal ends after all that could be settled was settled."""
    seen: int = 0
    """The last entry that this worker saw."""
    beyond: int = 0
    """Entries found in the stream behind the valid prefix."""
    forked: int = 0
    """Entries found at or before it that differ from the journal's."""
    accounts: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Raw:
    """One entry as the stream has it, whatever that is."""

    seq: int
    account: str
    text: str
    chain: str


async def rebuild(
    generation: Generation,
    verdicts: Mapping[int, Verdict],
    seen: Mapping[int, int],
    asked_by: str = "",
) -> None:
    """Rebuild these shards and open them, one after the other is ready.

    `seen` is the highest entry of each that this worker ever saw in the life that ended. Raises
    wire.WireError, what asyncpg raises, Superseded, NotEmptied.
    """
    if not verdicts:
        return
    marks = {}
    for number, verdict in verdicts.items():
        mark = await set_aside(generation, number, verdict, seen.get(number, 0), asked_by)
        marks[number] = mark.seq
        failpoints.hit("rebuilding")
    await empty(generation, marks)
    for number, verdict in verdicts.items():
        await restart(generation, number)
        await generation.open([number])
        log("shard_rebuilt", shard=number, generation=generation.number, reason=verdict.reason)


async def set_aside(
    generation: Generation, number: int, verdict: Verdict, seen: int = 0, asked_by: str = ""
) -> Mark:
    """Bring what is valid into the journal and the rest into quarantine; say what was lost.

    Answers where the journal ends then, and the shard will start.
    """
    declared = generation.shards[number]
    mark = await settle_prefix(generation, declared, verdict.tail.valid.seq)
    failpoints.hit("set_aside")
    loss = Loss(mark, seen)
    async for part in _beyond(generation, number, mark):
        await _keep(generation, number, part, verdict.reason, loss)
        loss.beyond += len(part)
    async for part in _forked(generation, number, mark):
        await _keep(generation, number, part, verdict.reason, loss)
        loss.forked += len(part)
    async with generation.state.pool.acquire() as conn, conn.transaction():
        await generation.move(conn, number, "rebuilding", verdict.reason)
        if asked_by:
            await audit.record(
                conn,
                actor=asked_by,
                action="shard.rebuild",
                subject=f"shard:{number}",
                after={"reason": verdict.reason, "mark": mark.seq},
            )
        if declared.state == "rebuilding":
            return mark  # who began has written the incident in this very transaction
        at = await conn.fetchrow(sql("rebuild_mark"), number, generation.nonce)
        summary, details = _report(generation, declared, verdict, loss)
        if asked_by:
            details["asked_by"] = asked_by
        await incidents.record(
            conn, "rebuild", summary, shard=number, settled_until=at["settled_at"], **details
        )
    return mark


async def settle_prefix(generation: Generation, declared: Declared, last: int) -> Mark:
    """Settle what continues the journal, up to entry `last`, in a shard that is not open.

    `last` is at most the end of the valid prefix. Answers where the journal ends then. Raises
    Superseded, wire.WireError, and what asyncpg raises.
    """
    number, mark = declared.number, declared.mark
    keys = generation.state.shards.keys[number].of_shard()[:4]
    while mark.seq < last:  # every round settles a page
        limit = min(_PAGE, last - mark.seq)
        seq, _settled, found = await generation.run(number, "entries", keys, [mark.seq, limit])
        entries = verify(mark.seq, mark.chain, found, seq=seq, limit=limit).entries
        if not entries:
            raise Superseded(f"shard {number}: its entries changed while it was vetted")
        batch = ShardBatch(number, generation.number, generation.nonce, mark.seq, entries)
        async with generation.state.pool.acquire() as conn:
            (outcome,) = await settle(conn, [batch], states=("vetting", "rebuilding"))
        if outcome.error is not None:
            raise Superseded(f"shard {number}: {outcome.error}")
        mark = Mark(outcome.mark, outcome.chain)
        declared.journaled = mark.seq
    return mark


async def _beyond(generation: Generation, number: int, mark: Mark) -> AsyncIterator[list[Raw]]:
    """What the stream has behind the mark, in pages."""
    first = b"(%d-0" % mark.seq
    while page := await _range(generation, number, b"XRANGE", first, b"+"):
        yield [_raw(item) for item in page]
        first = b"(" + page[-1][0]


async def _forked(generation: Generation, number: int, mark: Mark) -> AsyncIterator[list[Raw]]:
    """What the stream has up to the mark and the journal has otherwise, newest first, in pages.

    A life of Redis that forked off has entries of its own under numbers that another life's took.
    Before the first one that both have, both have the same. Of what is archived, which was settled
    long before, the journal tells the last entry alone: nothing is looked for behind that.
    """
    async with generation.state.pool.acquire() as conn:
        archived = await conn.fetchrow(sql("opening_shard"), number, None)
    first = b"-" if archived is None else b"%d-0" % archived["seq"]
    last = b"%d-18446744073709551615" % mark.seq
    while page := await _range(generation, number, b"XREVRANGE", last, first):
        raws = [_raw(item) for item in page]
        async with generation.state.pool.acquire() as conn:
            rows = await conn.fetch(sql("journal_chains"), number, [raw.seq for raw in raws])
        chains = {row["seq"]: row["chain"] for row in rows}
        differ = [raw for raw in raws if chains.get(raw.seq) != raw.chain]
        if differ:
            yield differ
        if len(differ) < len(raws):
            return
        last = b"(" + page[-1][0]


async def _range(
    generation: Generation, number: int, command: bytes, first: bytes, last: bytes
) -> list[Any]:
    """A page of a stream as this generation found it. Raises Superseded, wire.WireError.

    Another vetter may have rebuilt the shard meanwhile: what it serves now was never lost.
    """
    keys, wire = generation.state.shards.keys[number], generation.state.shards.wire
    try:
        found: list[Any] = await wire.call(
            keys.slot, command, keys.stream, first, last, b"COUNT", _PAGE
        )
    except ServerError as error:
        if error.code != "WRONGTYPE":
            raise
        found = []  # no stream: there is nothing to keep
    # Behind it, because nothing but a newer generation changes the stream of one that never served.
    if await wire.call(keys.slot, b"HGET", keys.meta, b"nonce") != generation.nonce.encode():
        raise Superseded(f"shard {number}: Redis has another generation")
    return found


def _raw(item: list[Any]) -> Raw:
    entry_id, fields = item
    found = dict(zip(fields[::2], fields[1::2], strict=False))
    match = _ENTRY_ID.fullmatch(entry_id)
    seq = min(int(match[1]), _BIGINT_MAX) if match else 0
    body = found.get(b"entry", repr(fields).encode())
    chain = found.get(b"chain", b"")[:40].decode("ascii", "replace").replace("\0", "")
    account = read_entry(seq, chain, body).account
    known = isinstance(account, str) and is_id(account)
    return Raw(seq, account if known else "", raw_text(body), chain)


async def _keep(
    generation: Generation, number: int, part: list[Raw], reason: str, loss: Loss
) -> None:
    loss.accounts.update(raw.account for raw in part if raw.account)
    async with generation.state.pool.acquire() as conn:
        await conn.execute(
            sql("rebuild_lost_insert"),
            number,
            generation.shards[number].redis_generation,
            [raw.seq for raw in part],
            [raw.account for raw in part],
            [raw.text for raw in part],
            [raw.chain for raw in part],
            reason[:500],
        )


def _report(
    generation: Generation, declared: Declared, verdict: Verdict, loss: Loss
) -> tuple[str, dict[str, Any]]:
    """The incident of a rebuild: one sentence, and every number that is known."""
    mark, seen = loss.mark, loss.seen
    redis_end = verdict.tail.seq
    # Redis's own count can be believed where it is the process and the generation that served.
    counted = (
        redis_end >= declared.mark.seq
        and declared.boot == generation.boot
        and declared.redis_generation == declared.generation
    )
    known = max(redis_end, seen) - mark.seq if counted else max(seen - mark.seq, loss.beyond)
    known = max(known, 0) + loss.forked
    at_most = known if counted else max(known, UNSETTLED_MAX)
    bound = f"{known} entries were lost"
    if not counted:
        bound = f"at most {at_most} entries were lost, {known} are known of"
    summary = (
        f"shard {declared.number} was rebuilt from the journal at entry {mark.seq}: {bound};"
        f" {verdict.reason}"
    )
    return summary, {
        "reason": verdict.reason,
        "generation_before": declared.generation,
        "generation": generation.number,
        "redis_generation": declared.redis_generation,
        "mark_before": declared.mark.seq,
        "mark": mark.seq,
        "redis_seq": redis_end,
        "redis_settled": verdict.tail.settled,
        "seen_seq": seen,
        "prefix_settled": mark.seq - declared.mark.seq,
        "kept_in_quarantine": loss.beyond + loss.forked,
        "lost_known": known,
        "lost_at_most": at_most,
        "accounts": sorted(loss.accounts)[:_ACCOUNTS_NAMED],
    }


async def empty(generation: Generation, marks: Mapping[int, int]) -> None:
    """Delete every key of these shards but `meta` and the leases; a last pass finds none.

    `marks` says of each where the journal ends, as `set_aside` answered.
    """
    for number, mark in marks.items():
        # A shard without a key is noted as well: it must not start below its mark either.
        await delete_keys(generation, number, [], mark)
    for _ in range(_PASSES):
        if await delete_pass(generation, marks) == 0:
            return
    raise NotEmptied(f"shards {list(marks)} still had keys after {_PASSES} passes")


async def delete_pass(generation: Generation, marks: Mapping[int, int]) -> int:
    """One SCAN over the node, deleting as it goes; answers how many keys it found."""
    state = generation.state
    wanted = {state.shards.keys[number].family: number for number in marks}
    # One shard is looked for by its tag; for several, one pass over all costs less than one each.
    match = next(iter(wanted)) if len(wanted) == 1 else f"{state.config.prefix}:".encode()
    waiting: dict[int, list[bytes]] = {number: [] for number in wanted.values()}
    found, cursor = 0, b""
    while cursor != b"0":  # SCAN ends: nothing grows meanwhile
        cursor, names = await generation.node.call(
            "SCAN", cursor or b"0", "MATCH", match + b"*", "COUNT", _SCAN_COUNT
        )
        for name in names:
            number = wanted.get(name[: name.find(b"}") + 2])
            if number is not None and name not in _kept(generation, number):
                waiting[number].append(name)
                found += 1
        for number, keys in waiting.items():
            while len(keys) >= _DELETE_KEYS or (keys and cursor == b"0"):
                await delete_keys(generation, number, keys[:_DELETE_KEYS], marks[number])
                del keys[:_DELETE_KEYS]
    return found


def _kept(generation: Generation, number: int) -> tuple[bytes, bytes, bytes]:
    keys = generation.state.shards.keys[number]
    return keys.meta, keys.lease_new, keys.lease_finish


async def delete_keys(generation: Generation, number: int, keys: list[bytes], mark: int) -> None:
    """Delete some keys of a shard, which is a remnant from then on; `mark` is the journal's end.

    Raises Superseded if it serves, or another generation has it.
    """
    failpoints.hit("delete")
    await generation.run(number, "delete", [*_kept(generation, number), *keys], [mark])


async def restart(generation: Generation, number: int) -> None:
    """Start an emptied shard at the journal's mark, with what will be due of its cold accounts.

    Raises Superseded where the mark is below the one that the shard was emptied at: Postgres went
    back, and the next vetting has to decide.
    """
    keys = generation.state.shards.keys[number].of_shard()
    async with generation.state.pool.acquire() as conn:
        at = await conn.fetchrow(sql("rebuild_mark"), number, generation.nonce)
        if at is None:
            raise Superseded(f"shard {number}: another generation was declared")
        generation.shards[number].journaled = at["mark"]
        after = ""
        while True:  # every page begins behind the one before it
            rows = await conn.fetch(sql("rebuild_due"), number, after, _DUE_PAGE)
            pairs = [value for row in rows for value in (row["account"], row["due_ms"])]
            last = len(rows) < _DUE_PAGE
            arguments = [at["mark"], at["chain"], int(last), *pairs]
            failpoints.hit("restart")
            await generation.run(number, "restart", keys, arguments)
            if last:
                return
            after = rows[-1]["account"]
