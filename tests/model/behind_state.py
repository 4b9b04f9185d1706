"""The state of the model in which Postgres falls back, what its rules are, how far it reaches."""

from __future__ import annotations

from typing import Final, NamedTuple

from tests.model.protocol_state import Log

OPEN, VETTING, REBUILDING, STOPPED = range(4)
REST, DECLARED, RAISED, STOPS, ADOPTS, REBUILDS, DELETES, EMPTIED, RESTARTED = range(9)
# Faults are few, and so are the generations that they need. Only a vetting that changes nothing and
# is repeated for ever gets here, and then no further: what it leaves closed is beyond hope.
MOST_GENERATIONS: Final = 8
WORDS: Final = {STOPS: "stop", ADOPTS: "adopt", REBUILDS: "rebuild"}


class Rules(NamedTuple):
    """What the protocol demands. One that is False was taken out."""

    vetter_replays: bool = True
    """Where Redis has settled more than Postgres holds, and the stream reaches back so far, it is
    settled again before the shard opens: settlers leave alone what cannot be."""
    behind_stops: bool = True
    """Where it does not reach back so far, the shard is stopped, not rebuilt."""
    rebuild_settles_prefix: bool = True
    batch_ends_with_connection: bool = True
    told_by_chain: bool = True
    row_remembers_rebuild: bool = True
    redis_remembers_rebuild: bool = True
    """`delete` notes in `meta` that what is left is a remnant, `restart` ends that."""
    remnant_knows_mark: bool = True
    """With it the mark of the journal that it gave way to: nothing starts below it."""


class Scope(NamedTuple):
    """How far one search reaches."""

    entries: int = 2
    falls: int = 1
    """How often Postgres falls back; likewise restarts of Redis that lose its tail."""
    losses: int = 0
    deaths: int = 1
    """Vetters that die between two steps."""
    rebuilds: int = 0
    """Rebuilds that an operator asks for."""
    settlers: int = 0
    """How many may stop between their reading and their transaction; 0: one that never does."""


class Name(NamedTuple):
    """A generation: its number, and its nonce, which no other one has, whatever its number."""

    number: int
    nonce: int


class Postgres(NamedTuple):
    """The row of the shard and its journal, as one copy has them."""

    name: Name
    state: int
    boot: int
    journal: Log


class Redis(NamedTuple):
    """The shard in Redis."""

    name: Name
    boot: int
    log: Log
    trimmed: int
    """Entries that the stream has no more."""
    settled: int
    torn: int
    """Of its keys, 0: all are there, 1: some are deleted, 2: all but `meta` are."""
    remnant: int
    """The mark for which deleting began; 0 where none did."""
    lent: bool


class Vetter(NamedTuple):
    """One attempt, between two of its steps."""

    phase: int = REST
    name: Name = Name(0, 0)
    boot: int = 0
    forced: bool = False
    mark: int = 0
    """Where the journal ended when it began to delete."""


class Batch(NamedTuple):
    """What a settler has read and not yet settled."""

    nonce: int = 0
    mark: int = 0
    entries: Log = ()


def changed(batches: tuple[Batch, ...], which: int, batch: Batch) -> tuple[Batch, ...]:
    """The batches with another one in its place."""
    return (*batches[:which], batch, *batches[which + 1 :])


class World(NamedTuple):
    """Everything."""

    postgres: Postgres
    standby: Postgres
    redis: Redis
    vetter: Vetter
    batches: tuple[Batch, ...]
    """What each settler has in hand."""
    waits: int
    """The entry whose caller waits for `settled`; 0: nobody waits."""
    told: frozenset[int]
    """Judged only: entries that were settled, so that their callers may have been told."""
    wrong: str
    """Judged only: what an action did that it must not do."""
    whole: bool
    """Judged only: Redis has never lost anything."""
    made: int
    falls: int
    losses: int
    deaths: int
    rebuilds: int
