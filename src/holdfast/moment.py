"""One account in Redis: its keys and its shard at one moment, and the stream behind a mark.

Nothing is written. Replies that belong together come out of one MULTI; a key of the wrong type is
told as such, and the rest is read all the same. Which records there are is known only after that:
they are read a moment later, and the entries in between tell what may have changed meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from holdfast.shards import Argument, Shards
from holdfast.wire import ServerError
from settlement.expectation import Live
from settlement.fold import Fold, Rejected
from settlement.reader import Entry, verify
from settlement.verdict import Mark

# Open holds that are looked at: with their records some 5 ms of Redis's time.
MAX_OPEN: Final = 1000
# Records whose keys are shown, five commands each.
_MAX_SHOWN: Final = 100
_PAGE: Final = 500  # stream entries, half a megabyte; behind the mark are at most B2, 80,000


@dataclass(frozen=True, slots=True)
class RedisKey:
    """One key as an operator would look at it. `ttl_ms` is None where it stays."""

    name: str
    type: str
    ttl_ms: int | None
    encoding: str
    memory: int
    value: Any


@dataclass(slots=True)
class Moment:
    """One moment of a shard and an account. A key that has the wrong type is in `damage`."""

    at_ms: int
    meta: dict[str, str]
    leases: dict[str, int]
    live: Live
    damage: list[str]

    @property
    def seq(self) -> int:
        return int(self.meta.get("seq", "0"))

    @property
    def settled(self) -> int:
        return int(self.meta.get("settled", "0"))

    @property
    def today(self) -> int:
        return int(datetime.fromtimestamp(self.at_ms / 1000, UTC).strftime("%Y%m%d"))


@dataclass(slots=True)
class Behind:
    """Entries behind a mark: those of the account, what they add up to, and why they end."""

    end: Mark
    """The last entry that links."""
    mine: list[Entry] = field(default_factory=list)
    fold: Fold = field(default_factory=Fold)
    fault: str = ""


# ── Redis ────────────────────────────────────────────────────────────────────────────────────────


async def _together(
    shards: Shards, number: int, commands: Sequence[tuple[Argument, ...]]
) -> tuple[list[Any], list[str]]:
    """The replies to commands that nobody else's come between, None for one that Redis refused.

    With it what was refused: commands on keys of another type, each with the key's name.
    """
    wire, slot = shards.wire, shards.keys[number].slot
    sent = [wire.send(slot, *command) for command in (("MULTI",), *commands, ("EXEC",))]
    answers: list[Any] = await asyncio.gather(*sent, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    replies: list[Any] = answers[-1]
    refused = [
        f"{_text(command[1])}: {reply.message}"
        for command, reply in zip(commands, replies, strict=True)
        if isinstance(reply, ServerError)
    ]
    return [None if isinstance(reply, ServerError) else reply for reply in replies], refused


async def read_settled(shards: Shards, number: int) -> int:
    """Up to which entry Redis knows the shard to be settled; 0 where that cannot be read."""
    keys = shards.keys[number]
    try:
        return int(await shards.wire.call(keys.slot, "HGET", keys.meta, "settled") or 0)
    except (ServerError, ValueError):
        return 0


async def read_moment(shards: Shards, number: int, account: str) -> Moment:
    """All of one moment, but for the records of the account."""
    keys = shards.keys[number]
    commands: list[tuple[Argument, ...]] = [
        ("TIME",),
        ("GET", keys.lease_new),
        ("PTTL", keys.lease_new),
        ("GET", keys.lease_finish),
        ("PTTL", keys.lease_finish),
        ("ZSCORE", keys.due, account),
        ("PTTL", keys.acct(account)),
        ("PTTL", keys.open(account)),
        ("HGETALL", keys.meta),
        ("HGETALL", keys.acct(account)),
        ("HGETALL", keys.members(account)),
        ("ZRANGE", keys.open(account), 0, MAX_OPEN - 1, "WITHSCORES"),
    ]
    replies, damage = await _together(shards, number, commands)
    (seconds, micros), new, new_ms, finish, finish_ms, due, acct_ttl, open_ttl = replies[:8]
    meta, acct, members, opens = map(_pairs, replies[8:])
    nonce = meta.get("nonce", "").encode()
    return Moment(
        at_ms=int(seconds) * 1000 + int(micros) // 1000,
        meta=meta,
        leases={
            "new": new_ms if nonce and new == nonce else 0,
            "finish": finish_ms if nonce and finish == nonce else 0,
        },
        live=Live(
            acct=acct,
            opens={hold: int(float(deadline)) for hold, deadline in opens.items()},
            members=members,
            due_ms=None if due is None else float(due),
            expires=max(acct_ttl, open_ttl) >= 0,
        ),
        damage=damage,
    )


async def read_records(
    shards: Shards, number: int, account: str, live: Live, names: Collection[str]
) -> int:
    """Read these records into `live`; answers the last entry of the shard at that moment."""
    keys = shards.keys[number]
    records = [keys.record(account, name) for name in names]
    commands: list[tuple[Argument, ...]] = [("HGET", keys.meta, "seq")]
    commands += [(word, record) for word in ("HGETALL", "PTTL") for record in records]
    (seq, *rest), _damage = await _together(shards, number, commands)
    found, ttls = rest[: len(records)], rest[len(records) :]
    for name, fields, ttl in zip(names, found, ttls, strict=True):
        live.records[name] = record = _pairs(fields)
        # One that has ended meanwhile may expire.
        live.expires |= name in live.opens and record.get("state") == "held" and ttl >= 0
    return int(seq or 0)


def _pairs(flat: list[bytes] | None) -> dict[str, str]:
    texts = [_text(each) for each in flat or ()]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _text(value: Argument) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


async def read_behind(shards: Shards, number: int, account: str, mark: Mark, seq: int) -> Behind:
    """The entries between the mark and `seq`, as far as they link.

    A fault right behind the mark may only mean that they were settled and trimmed meanwhile.
    """
    keys = shards.keys[number]
    behind = Behind(mark)
    after, chain = mark.seq, mark.chain
    try:
        while after < seq and not behind.fault:  # every page brings entries, or a fault
            limit = min(_PAGE, seq - after)
            found = await shards.wire.call(
                keys.slot, "XRANGE", keys.stream, f"({after}-0", f"{seq}-0", "COUNT", limit
            )
            reading = verify(after, chain, found, seq=seq, limit=limit)
            for entry in reading.entries:
                after, chain = entry.seq, entry.chain
                if entry.account == account:
                    behind.mine.append(entry)
                    behind.fold.add(number, entry)
            behind.end = Mark(after, chain)
            if reading.broken is not None:
                behind.fault = reading.broken.detail
    except ServerError as error:
        behind.fault = f"it cannot be read: {error.message}"
    except Rejected as error:
        behind.fault = f"an entry cannot be settled: {error}"
    if seq < mark.seq:
        behind.fault = f"Redis ends at entry {seq}, the journal at {mark.seq}"
    return behind


async def read_keys(shards: Shards, number: int, account: str, live: Live) -> list[RedisKey]:
    """The account's keys with what Redis knows about them; what is not there is left out."""
    keys = shards.keys[number]
    names = [keys.acct(account), keys.open(account), keys.members(account)]
    records = (name for name, fields in live.records.items() if fields)
    in_order = sorted(records, key=lambda name: (name not in live.opens, name))
    names += [keys.record(account, name) for name in in_order[:_MAX_SHOWN]]
    found = await asyncio.gather(*(_read_key(shards, keys.slot, name) for name in names))
    return [key for key in found if key is not None]


async def _read_key(shards: Shards, slot: int, name: bytes) -> RedisKey | None:
    call = shards.wire.call
    kind = (await call(slot, "TYPE", name)).decode()
    if kind == "none":
        return None
    reads: dict[str, tuple[Argument, ...]] = {
        "hash": ("HGETALL", name),
        "zset": ("ZRANGE", name, 0, MAX_OPEN - 1, "WITHSCORES"),
    }
    commands: list[tuple[Argument, ...]] = [
        ("PTTL", name),
        ("OBJECT", "ENCODING", name),
        ("MEMORY", "USAGE", name),
        reads.get(kind, ("TYPE", name)),
    ]
    sent = (call(slot, *command) for command in commands)
    answers: list[Any] = await asyncio.gather(*sent, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, ServerError):
            raise answer  # a key that has gone since, or what an ACL denies, is told as nothing
    ttl_ms, encoding, memory, value = answers
    return RedisKey(
        name=_text(name),
        type=kind,
        ttl_ms=ttl_ms if isinstance(ttl_ms, int) and ttl_ms >= 0 else None,
        encoding=_text(encoding) if isinstance(encoding, bytes) else "",
        memory=memory if isinstance(memory, int) else 0,
        value=_pairs(value) if kind in reads and isinstance(value, list) else None,
    )
