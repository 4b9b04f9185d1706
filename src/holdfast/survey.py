"""How each shard stands, as this process sees it: for /readyz and the gauges of /metrics.

Plain reads, all in one write to Redis; what a shard does not answer within the call's time-out is
reported as closed because of `redis`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from holdfast.gate import Gate
from holdfast.keys import ShardKeys
from holdfast.shards import Shards
from holdfast.wire import WireError

# From so many unsettled entries on the scripts take no new spending, and so far behind what it has
# been they do not believe a clock (lua/lib/fence.lua, nonce.lua).
BACKLOG_MAX = 20_000
CLOCK_SLACK_MS = 1_000
_TESTED = (b"test_now_ms", b"test_offset_ms")  # what only the test build of the scripts reads


@dataclass(frozen=True, slots=True)
class ShardView:
    """One shard. `reason` says why it takes no new spending, '' where it does."""

    number: int
    reason: str
    backlog: int = 0
    """Entries that the journal does not have yet."""
    waiting_ms: int = 0
    """How long the oldest of them has been waiting, by Redis's clock and this machine's."""
    new_ms: int = 0
    """What is left of the lease for new spending."""
    finish_ms: int = 0
    """What is left of the lease to finish what was authorised."""

    @property
    def open(self) -> bool:
        return not self.reason


async def survey(shards: Shards, gates: Sequence[Gate], now_ms: int) -> list[ShardView]:
    """All shards, in order. `now_ms`: milliseconds since 1970 by this machine's clock."""
    return list(await asyncio.gather(*(_view(shards, gate, now_ms) for gate in gates)))


async def _view(shards: Shards, gate: Gate, now_ms: int) -> ShardView:
    shard = shards.keys[gate.number]
    call, slot = shards.wire.call, shard.slot
    try:
        meta, when, leases, new_ms, finish_ms = await asyncio.gather(
            call(slot, b"HMGET", shard.meta, b"nonce", b"seq", b"settled", b"clock_ms", *_TESTED),
            call(slot, b"TIME"),
            call(slot, b"MGET", shard.lease_new, shard.lease_finish),
            call(slot, b"PTTL", shard.lease_new),
            call(slot, b"PTTL", shard.lease_finish),
        )
        settled = int(meta[2] or 0)
        backlog = max(int(meta[1] or 0) - settled, 0)
        waiting_ms = await _waiting_ms(shards, shard, settled, now_ms) if backlog else 0
    except WireError:
        return ShardView(gate.number, "redis")
    reason = ""
    if gate.fenced or meta[0] != gate.nonce.encode():
        reason = "fenced"
        gate.refuse(gate.nonce)  # no call may come that finds it out: look for the new nonce now
    elif leases != [meta[0], meta[0]]:
        reason = "lease"
    elif _now_ms(shards, when, *meta[4:]) < int(meta[3] or 0) - CLOCK_SLACK_MS:
        reason = "clock"
    elif backlog >= BACKLOG_MAX:
        reason = "backlog"
    return ShardView(gate.number, reason, backlog, waiting_ms, max(new_ms, 0), max(finish_ms, 0))


def _now_ms(shards: Shards, when: list[bytes], now: bytes | None, offset: bytes | None) -> int:
    """The time as scripts have it; in their test build, what a test has made of it."""
    told_ms = int(when[0]) * 1000 + int(when[1]) // 1000
    if not shards.test_clock:
        return told_ms
    return int(now) if now else told_ms + int(offset or 0)


async def _waiting_ms(shards: Shards, shard: ShardKeys, settled: int, now_ms: int) -> int:
    """The age of the first entry that is not settled; 0 where it has gone meanwhile."""
    first = b"%d-0" % (settled + 1)
    found = await shards.wire.call(shard.slot, b"XRANGE", shard.stream, first, b"+", b"COUNT", b"1")
    if not found:
        return 0
    try:
        return max(now_ms - int(orjson.loads(found[0][1][1])["at"]), 0)
    except (ValueError, KeyError, IndexError, TypeError):
        return 0  # an entry that cannot be read is for the settlement to report
