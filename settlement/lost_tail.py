"""What a Redis that is adopted came back without: a shard's tail that nothing in it tells of.

Where the journal is behind what came back, the shard goes on from there, and the entries that Redis
had acknowledged last may be missing. Two things are known of them: what the leases of this worker
had seen is surely lost, and more than the scripts let a shard have unsettled cannot be.

Nothing in Redis tells a restart that was ordered from a kill: INFO, the append-only file and `meta`
are alike. So every restart of a Redis that promises `memory` is told, as one that *may* have lost
something, in one incident for the node and not in one for each of its many shards.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from settlement import incidents
from settlement.generation import Generation
from settlement.queries import Connection
from settlement.rebuild import UNSETTLED_MAX

_MAY_BE_GONE = (
    "with `appendfsync everysec` up to about two seconds of work that was acknowledged and had not"
    " settled may be gone"
)


@dataclass(frozen=True, slots=True)
class LostTail:
    """What an adopted shard may have lost. Numbers of entries."""

    shard: int
    mark_before: int
    """The journal's end when the shard was closed, or what its Redis had settled if that is more.
    The Redis that served had settled no more."""
    mark: int
    """The journal's end when it opens."""
    redis_seq: int
    """The last entry that Redis came back with."""
    seen_seq: int
    """The last entry that this worker's leases had seen, 0 if they had seen none."""

    @property
    def known(self) -> int:
        """How many are surely lost."""
        return max(self.seen_seq - self.redis_seq, 0)

    @property
    def at_most(self) -> int:
        """How many there can have been behind those that came back."""
        return max(self.mark_before + UNSETTLED_MAX - self.redis_seq, self.known)

    def details(self) -> dict[str, Any]:
        return {
            "mark_before": self.mark_before,
            "mark": self.mark,
            "redis_seq": self.redis_seq,
            "seen_seq": self.seen_seq,
            "lost_known": self.known,
            "lost_at_most": self.at_most,
        }


async def report(conn: Connection, generation: Generation, tails: Iterable[LostTail]) -> None:
    """Write what these shards lost, and may have lost, in the transaction that opens them.

    So it is written once, however often a vetting is started over.
    """
    maybe: list[LostTail] = []
    for tail in tails:
        if tail.known:
            await _record_lost(conn, generation, tail)
        elif generation.may_have_lost(tail.shard):
            maybe.append(tail)
    if maybe:
        await _record_restart(conn, generation, maybe)


async def _record_lost(conn: Connection, generation: Generation, tail: LostTail) -> None:
    summary = (
        f"shard {tail.shard}: Redis came back at entry {tail.redis_seq}; at least {tail.known}"
        f" entries up to {tail.seen_seq} are lost, at most {tail.at_most}"
    )
    if generation.may_have_lost(tail.shard):
        summary += f"; no more than `memory` was promised: {_MAY_BE_GONE}"
    await incidents.record(
        conn,
        "lost_tail",
        summary,
        shard=tail.shard,
        generation=generation.number,
        **tail.details(),
    )


async def _record_restart(
    conn: Connection, generation: Generation, tails: Iterable[LostTail]
) -> None:
    shards: list[dict[str, Any]] = [{"shard": tail.shard} | tail.details() for tail in tails]
    most = max(shard["lost_at_most"] for shard in shards)
    node = str(generation.node.address)
    await incidents.record(
        conn,
        "unsynced_restart",
        f"redis {node} runs anew, and no more than `memory` was promised: {_MAY_BE_GONE}, at most"
        f" {most} entries of each of {len(shards)} shards; none is known of",
        node=node,
        run_id=generation.boot.run_id,
        generation=generation.number,
        lost_known=0,
        lost_at_most=sum(shard["lost_at_most"] for shard in shards),
        shards=shards,
    )
