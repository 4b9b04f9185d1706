from __future__ import annotations

from typing import NamedTuple

# Ticks: a lease of 2 s, the pause of 2.5 s, as few ticks as keep them apart from "at once".
LEASE = 1
PAUSE = 1

OPEN, VETTING, REBUILDING = range(3)
GONE = -1  # a boot that no Redis has any more
NAMES = "AB"
STATES = ("open", "vetting", "rebuilding")

# An entry is serial * 64 + serial before * 8 + seq
Log = tuple[int, ...]


class Data(NamedTuple):
    generation: int
    log: Log
    new: int
    finish: int
    torn: int


class Redis(NamedTuple):
    primary: bool
    data: Data
    disk: Data | None
    scripts: tuple[int, ...]
    vetted: bool
    grace: int
    quiet: int


class Row(NamedTuple):
    generation: int
    state: int
    boot: int
    journal: Log
    proof: int


class Settler(NamedTuple):
    generation: int
    mark: int
    batch: Log


IDLE_SETTLER = Settler(0, 0, ())


class Leaser(NamedTuple):
    phase: int
    generation: int
    boot: int
    age: int
    proven: int
    proven_boot: int
    proven_age: int


class Vetter(NamedTuple):
    phase: int
    boot: int
    generation: int
    mark: int
    deleting: bool


IDLE_VETTER = Vetter(0, GONE, 0, 0, False)
(LOOKED, DECLARED, RAISED, LOADED, ADOPT, REBUILD, DELETE, EMPTIED, RESTARTED) = range(1, 10)


class World(NamedTuple):
    row: Row
    nodes: tuple[Redis, Redis]
    settlers: tuple[Settler, ...]
    leasers: tuple[Leaser, ...]
    vetters: tuple[Vetter, ...]
    made: int
    failovers: int
    restarts: int
    flushes: int
