"""What the protocol demands, each demand a switch, and how far one search of its model reaches."""

from __future__ import annotations

from typing import NamedTuple


class Rules(NamedTuple):
    """One that is False was taken out."""

    delete_compares_nonce: bool = True
    read_compares_nonce: bool = True
    scripts_loaded_once: bool = True
    lease_counts_from_time: bool = True
    """A lease ends 2 s after a TIME that was read before the proof of life."""
    proof_needs_open: bool = True
    lease_compares_boot: bool = True
    lease_names_its_nonce: bool = True
    raise_drops_leases: bool = True
    """`raise` deletes both leases: what the script does on top of the protocol."""
    finish_ends: bool = True
    replay_needs_lease: bool = True
    settle_compares_mark: bool = True
    settle_compares_nonce: bool = True
    mark_read_after_declaring: bool = True
    adopt_compares: bool = True
    row_remembers_rebuild: bool = True
    open_pauses: bool = True
    redis_remembers_rebuild: bool = True
    """`delete` notes in `meta` that what is left is a remnant, `restart` ends that."""


class Scope(NamedTuple):
    """How far one search reaches."""

    settlers: int = 1
    leasers: int = 1
    vetters: int = 1
    settled: bool = False
    """Begin with one settled entry, which B has not got yet."""
    entries: int = 2
    """Entries that are ever made, that one included; 7 at most."""
    failovers: int = 0
    restarts: int = 0
    flushes: int = 0
    rebuilds: int = 0
    """Rebuilds that an operator asks for."""
    replica: bool = True
    """Whether B follows A."""
    older_file: bool = False
    """Whether a restart may find an append-only file that lacks the last writes."""
    finish: int = 0
    """Ticks after a proof for which `lease:finish` is renewed without Postgres."""
    lease: int = 1
    """Ticks of a lease, and of the pause before another boot opens."""
    roaming: bool = False
    """Whether vetters look at any primary, as if workers disagreed on which it is, and whether the
    next step of an attempt may reach another one than the last did."""
