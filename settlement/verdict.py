"""What is to become of a shard that is being vetted: compares, and changes nothing.

adopt    every entry behind the mark is there and links to the journal: the settle takes them
rebuild  it does not, or an operator says so, or an earlier vetter had begun to delete, or the clock
         of this Redis was ahead
stop     Redis has settled more than the journal holds, or was being rebuilt from more, and its
         stream does not reach back: the journal went back, and nothing may be rebuilt from it
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from holdfast.codes import Code
from holdfast.shards import Shards
from settlement.reader import verify

# Entries a page: about half a megabyte, and 2 ms of Redis's time. What stands behind the mark is at
# most B2 (80,000) entries, or the retention's where Postgres went back.
_PAGE = 500


AHEAD = "the clock of this Redis was ahead, so that records may have ended early"
"""Why a shard is rebuilt that lacks nothing else."""


class Superseded(Exception):
    """Another generation was declared: whoever goes on with this one does nothing."""


class Fate(Enum):
    """What is done with a shard; see the top of this module."""

    ADOPT = "adopt"
    REBUILD = "rebuild"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Mark:
    """The journal's end of a shard: the last settled entry's number and chain."""

    seq: int
    chain: str


@dataclass(frozen=True, slots=True)
class Tail:
    """What Redis has behind the journal's mark."""

    seq: int
    """`meta.seq`: entries that Redis says it has."""
    settled: int
    valid: Mark
    """The last entry that continues the journal without a gap; the mark itself if none does."""
    fault: str
    """Why it ends there before `seq`, or ''."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a shard before its fate is decided."""

    mark: Mark
    generation: int
    """As Postgres had it before this vetting."""
    redis_generation: int
    """As Redis had it before this vetting; 0: none."""
    redis_chain: str
    served: bool
    """The shard was open once, so that Redis must know of it."""
    deleting: bool
    """An earlier vetter had begun to delete the shard's keys."""
    forced: bool
    """An operator asked for a rebuild."""
    remnant: int | None = None
    """The journal's mark when keys were deleted for a rebuild that has not ended; None: all are
    there. Redis's own note, in every copy that lacks keys, whatever Postgres remembers."""
    ahead: bool = False
    """The clock of this Redis was ahead: records of what is over may have ended early."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The fate of a shard, and what it was decided on."""

    fate: Fate
    reason: str
    tail: Tail
    went_back: bool
    """Redis knows of something that Postgres committed and has no more."""
    known: int
    """The last entry that the journal once had, as far as Redis knows."""


async def read_tail(shards: Shards, number: int, nonce: str, mark: Mark) -> Tail:
    """Read and verify the stream of a shard behind `mark`, under the generation of `nonce`.

    Raises Superseded where that is over, and wire.WireError.
    """
    keys = shards.keys[number].of_shard()[:4]
    valid, first_seq, page = mark, None, 0
    while True:
        code, rest = await shards.run(number, "entries", nonce, keys, [valid.seq, _PAGE])
        if code is not Code.OK:
            raise Superseded(f"shard {number}: its entries are refused ({code.name})")
        seq, settled, found = rest
        within = found[: max(seq - valid.seq, 0)]
        reading = verify(valid.seq, valid.chain, within, seq=seq, limit=_PAGE)
        if reading.entries:
            last = reading.entries[-1]
            valid = Mark(last.seq, last.chain)
        fault = "" if reading.broken is None else reading.broken.detail
        if not fault and seq < mark.seq:
            fault = f"Redis ends at entry {seq}, the journal at {mark.seq}"
        elif not fault and len(within) < len(found):
            fault = f"the stream goes on behind entry {seq}, which Redis says is its last"
        # A shard that serves grows while it is read: what it had at first, and a page to see the
        # end, is enough.
        first_seq, page = first_seq or seq, page + 1
        if fault or len(found) < _PAGE or page > (first_seq - mark.seq) // _PAGE + 1:
            return Tail(seq, settled, valid, fault)


def judge(evidence: Evidence, tail: Tail) -> Verdict:
    """Decide. Pure: the same evidence, the same fate."""
    mark = evidence.mark
    known = max(tail.settled, evidence.remnant or 0)
    went_back = known > mark.seq or evidence.redis_generation > evidence.generation
    fault = tail.fault
    if not fault and evidence.served and evidence.redis_generation == 0:
        fault = "Redis knows nothing of this shard, which it has served"
    if not fault and tail.valid.chain != evidence.redis_chain:
        fault = f"the chain that Redis would go on from is not that of entry {tail.valid.seq}"

    def verdict(fate: Fate, reason: str) -> Verdict:
        return Verdict(fate, reason, tail, went_back, known)

    if known > tail.valid.seq and not evidence.forced:
        had = "settled up to" if known == tail.settled else "begun a rebuild at"
        return verdict(
            Fate.STOP,
            f"Redis had {had} entry {known}, the journal ends at {mark.seq}, and the"
            f" stream continues it to {tail.valid.seq} only ({fault or 'nothing more is there'})",
        )
    if evidence.forced:
        return verdict(Fate.REBUILD, "an operator asked for it")
    if evidence.deleting or evidence.remnant is not None:
        return verdict(Fate.REBUILD, "an earlier rebuild had not ended")
    if fault:
        return verdict(Fate.REBUILD, fault)
    if evidence.ahead:
        return verdict(Fate.REBUILD, AHEAD)
    return verdict(Fate.ADOPT, "")
