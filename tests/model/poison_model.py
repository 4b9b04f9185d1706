"""Entries that Postgres does not take, as a model: who has to wait for them, and what he is told.

One shard, two accounts. `bad` may make an entry that no table takes; `good` only what is right,
and once a record under a key that it used before, when the window has closed. The settle takes
the whole stream behind the mark, halves it where it is rejected, and keeps apart what is alone. An
account can be evicted and loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

GOOD, REUSE, BAD, POISON = range(4)
WORDS: Final = {
    GOOD: "the good account spends",
    REUSE: "the good account uses a key again, after its window",
    BAD: "the bad account spends",
    POISON: "the bad account makes an entry that nothing takes",
}
MOST: Final = 4
"""Entries that are made."""


class Rules(NamedTuple):
    """What the protocol demands. One that is False was taken out."""

    rejected_is_kept_apart: bool = True
    quarantined_is_not_evicted: bool = True
    keys_may_come_again: bool = True
    """No unique index on what clients choose."""


class Stream(NamedTuple):
    """Everything."""

    log: tuple[int, ...]
    mark: int
    applied: tuple[int, ...]
    """Numbers of entries that the tables have; the others up to the mark are kept apart."""
    frozen: bool
    """The bad account is under quarantine."""
    live: bool
    """The bad account is in Redis."""
    seen: int
    """Of the bad account's entries, how many its balance in Redis has seen."""
    wrong: str


class Poison:
    """The model. `rules` may have some taken out."""

    hopeless = "whatever follows, an entry of the good account is never settled"

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def start(self) -> Stream:
        return Stream((), 0, (), frozen=False, live=True, seen=0, wrong="")

    def same(self, stream: Stream) -> Stream:
        return stream

    def hoped(self, stream: Stream) -> bool:
        return stream.mark == len(stream.log)

    def fault(self, stream: Stream) -> str | None:
        if stream.wrong:
            return stream.wrong
        made = sum(kind in (BAD, POISON) for kind in stream.log)
        if stream.live and stream.seen != made:
            return "the quarantined account serves with an older balance"
        return None

    def steps(self, stream: Stream) -> Iterator[tuple[str, Stream]]:
        if len(stream.log) < MOST:
            for kind in (GOOD, BAD, POISON):
                if kind == GOOD or stream.live:
                    seen = stream.seen + (kind != GOOD)
                    made = stream._replace(log=(*stream.log, kind), seen=seen)
                    yield WORDS[kind], made
            if GOOD in stream.log and REUSE not in stream.log:
                yield WORDS[REUSE], stream._replace(log=(*stream.log, REUSE))
        if stream.mark < len(stream.log):
            settled = self._settled(stream, stream.mark, len(stream.log))
            if settled.mark > stream.mark:
                yield f"Postgres settles to entry {settled.mark}", settled
        all_settled = stream.mark == len(stream.log)
        guarded = stream.frozen and self.rules.quarantined_is_not_evicted
        if stream.live and all_settled and not guarded:
            yield "the bad account is evicted", stream._replace(live=False)
        if not stream.live and not guarded:
            known = sum(stream.log[number - 1] in (BAD, POISON) for number in stream.applied)
            yield "the bad account is loaded", stream._replace(live=True, seen=known)

    def _settled(self, stream: Stream, after: int, to: int) -> Stream:
        """After one settle of the entries behind `after` up to `to`, as far as it gets."""
        kinds = stream.log[after:to]
        diverted = (BAD, POISON) if stream.frozen else ()
        rejected = any(self._is_rejected(kind) and kind not in diverted for kind in kinds)
        if not rejected:
            numbers = range(after + 1, to + 1)
            taken = [n for n in numbers if stream.log[n - 1] not in diverted]
            return stream._replace(mark=to, applied=(*stream.applied, *taken))
        if not self.rules.rejected_is_kept_apart:
            return stream
        if to == after + 1:
            wrong = "" if kinds[0] == POISON else "an account is frozen that did nothing wrong"
            return stream._replace(mark=to, frozen=True, wrong=wrong)
        middle = after + (to - after) // 2
        first = self._settled(stream, after, middle)
        return self._settled(first, middle, to)

    def _is_rejected(self, kind: int) -> bool:
        return kind == POISON or (kind == REUSE and not self.rules.keys_may_come_again)
