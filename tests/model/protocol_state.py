"""The state of the protocol's model: one shard, two Redis instances, one row, some workers.

Everything is a number or a tuple. Generation and nonce are one number, for a nonce is never used
twice; a boot is the instance that runs as it, or GONE once that runs as another. Both are exact:
the protocol compares generations and asks if boots are equal, and does nothing else with them.

What is there only to judge (no step asks for it) says so: `vetted`, `grace`, `quiet`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

OPEN, VETTING, REBUILDING = range(3)
NO_ONE: Final = 0
"""The generation of a Redis that knows none, and of a worker that has none in mind."""
GONE: Final = -1
"""A boot that no instance runs as any more."""
NAMES: Final = "AB"

Log = tuple[int, ...]
"""Entries from number 1 on. Each carries its own identity, its number and what it follows."""


def entry_after(log: Log, serial: int) -> int:
    """The entry that is made as the `serial`-th of all, on top of `log`. Up to seven of them."""
    return serial << 6 | (log[-1] >> 6 if log else 0) << 3 | len(log) + 1


def is_chained(journal: Log) -> bool:
    """Whether numbers have no gap, each entry follows the one before it, and none comes twice."""
    before = 0
    for number, entry in enumerate(journal, start=1):
        if entry & 7 != number or entry >> 3 & 7 != before:
            return False
        before = entry >> 6
    return True


class Data(NamedTuple):
    """What Redis holds of the shard; what a replica copies and a disk keeps."""

    generation: int
    log: Log
    """Accounts and stream: both are what these entries made of them."""
    new: int
    """Ticks that `lease:new` still has; negative: it carries another generation's nonce."""
    finish: int
    """Likewise `lease:finish`."""
    torn: int
    """Of the shard's keys, 0: all are there, 1: some are deleted, 2: all but `meta` are."""


EMPTY: Final = Data(NO_ONE, (), 0, 0, 0)


class Redis(NamedTuple):
    """One instance. A replica answers nobody."""

    primary: bool
    data: Data
    disk: Data | None
    """What a restart finds; None: always all of it (`appendfsync always`)."""
    scripts: tuple[int, ...]
    """Generations whose scripts this operating system's program has loaded."""
    vetted: bool
    """Judged only: this boot was opened, in this run of it, and nothing was flushed since."""
    grace: int
    """Judged only: ticks for which a failover there and back cannot be seen."""
    quiet: int
    """Judged only: ticks since the last proof of life of its generation."""


def runs(redis: Redis, generation: int) -> bool:
    """Whether a script that carries this generation's nonce is there, and goes on."""
    return redis.primary and redis.data.generation == generation and generation in redis.scripts


class Row(NamedTuple):
    """The shard in Postgres. The mark is the journal's length."""

    generation: int
    state: int
    boot: int
    journal: Log
    proof: int
    """Ticks since the last proof of life, as far as they matter."""


class Settler(NamedTuple):
    """A settle loop between its reading of the stream and its transaction."""

    generation: int = NO_ONE
    mark: int = 0
    batch: Log = ()


class Leaser(NamedTuple):
    """A lease loop: it took the time, it wrote its proof of life, it lends."""

    phase: int = 0
    generation: int = NO_ONE
    boot: int = GONE
    age: int = 0
    """Ticks since it read Redis's TIME."""
    proven: int = NO_ONE
    """The generation whose proof it wrote last; for `lease:finish` while Postgres is away."""
    proven_boot: int = GONE
    proven_age: int = 0

    def at_rest(self) -> Leaser:
        """After a round, or before one."""
        return Leaser(0, NO_ONE, GONE, 0, self.proven, self.proven_boot, self.proven_age)


REST, TAKEN, PROVEN = range(3)


class Vetter(NamedTuple):
    """One attempt at a new generation, between two of its steps."""

    phase: int = 0
    target: int = GONE
    """The instance that it is connected to."""
    boot: int = GONE
    generation: int = NO_ONE
    mark: int = 0
    forced: bool = False
    """It rebuilds whatever it finds: an operator asked for it, or an earlier one had not ended."""


LOOKED, DECLARED, RAISED, LOADED, ADOPTS, REBUILDS, DELETES, EMPTIED, RESTARTED = range(1, 10)


class World(NamedTuple):
    """Everything."""

    row: Row
    nodes: tuple[Redis, Redis]
    settlers: tuple[Settler, ...]
    leasers: tuple[Leaser, ...]
    vetters: tuple[Vetter, ...]
    named: int
    """The instance that the cluster calls primary. Another one may not know that it is none."""
    made: int
    """Entries that were ever made."""
    failovers: int
    """How many may still happen; likewise the next three."""
    restarts: int
    flushes: int
    rebuilds: int

    def with_node(self, which: int, redis: Redis) -> World:
        """This world with another instance in its place."""
        nodes = (redis, self.nodes[1]) if which == 0 else (self.nodes[0], redis)
        return self._replace(nodes=nodes)

    def with_data(self, which: int, data: Data) -> World:
        """This world with other keys in an instance."""
        return self.with_node(which, self.nodes[which]._replace(data=data))

    def with_settler(self, which: int, settler: Settler) -> World:
        """This world with another settler in its place."""
        after = (*self.settlers[:which], settler, *self.settlers[which + 1 :])
        return self._replace(settlers=after)

    def with_leaser(self, which: int, leaser: Leaser) -> World:
        """This world with another leaser in its place."""
        return self._replace(leasers=(*self.leasers[:which], leaser, *self.leasers[which + 1 :]))

    def with_vetter(self, which: int, vetter: Vetter) -> World:
        """This world with another vetter in its place."""
        return self._replace(vetters=(*self.vetters[:which], vetter, *self.vetters[which + 1 :]))

    def without_boot(self, which: int) -> World:
        """This world after the boot of an instance has ended: nobody will see it again."""

        def left(boot: int) -> int:
            return GONE if boot == which else boot

        return self._replace(
            row=self.row._replace(boot=left(self.row.boot)),
            leasers=tuple(
                leaser._replace(boot=left(leaser.boot), proven_boot=left(leaser.proven_boot))
                for leaser in self.leasers
            ),
            vetters=tuple(vetter._replace(boot=left(vetter.boot)) for vetter in self.vetters),
        )


def renumbered(world: World) -> World:
    """The world that stands for all that differ in names only.

    Generations are compared and exceeded, so their order is all that counts: they become 1, 2, 3,
    …. Workers have no names: each kind stands sorted. Scripts of a generation that no copy of the
    shard has and no vetter can give it any more will never run.
    """
    alive = {world.row.generation, NO_ONE}
    for redis in world.nodes:
        alive.add(redis.data.generation)
        if redis.disk is not None:
            alive.add(redis.disk.generation)
    for vetter in world.vetters:
        alive.add(vetter.generation)
    runnable = frozenset(alive)
    for settler in world.settlers:
        alive.add(settler.generation)
    for leaser in world.leasers:
        alive.add(leaser.generation)
        alive.add(leaser.proven)
    scripts = [tuple([n for n in redis.scripts if n in runnable]) for redis in world.nodes]
    if max(alive) >= len(alive):
        world = _with_numbers(world, scripts, {n: i for i, n in enumerate(sorted(alive))})
    elif any(kept != redis.scripts for kept, redis in zip(scripts, world.nodes, strict=True)):
        world = _with_numbers(world, scripts, {n: n for n in alive})
    if len(world.settlers) > 1 or len(world.vetters) > 1 or len(world.leasers) > 1:
        world = world._replace(
            settlers=tuple(sorted(world.settlers)),
            leasers=tuple(sorted(world.leasers)),
            vetters=tuple(sorted(world.vetters)),
        )
    return world


def _with_numbers(world: World, scripts: list[tuple[int, ...]], named: dict[int, int]) -> World:
    """The world with other generations, and with these scripts alone."""

    def data(was: Data) -> Data:
        return was._replace(generation=named[was.generation])

    nodes = [
        redis._replace(
            data=data(redis.data),
            disk=None if redis.disk is None else data(redis.disk),
            scripts=tuple([named[n] for n in kept]),
        )
        for redis, kept in zip(world.nodes, scripts, strict=True)
    ]
    return world._replace(
        row=world.row._replace(generation=named[world.row.generation]),
        nodes=(nodes[0], nodes[1]),
        settlers=tuple([s._replace(generation=named[s.generation]) for s in world.settlers]),
        leasers=tuple(
            [
                leaser._replace(generation=named[leaser.generation], proven=named[leaser.proven])
                for leaser in world.leasers
            ]
        ),
        vetters=tuple([v._replace(generation=named[v.generation]) for v in world.vetters]),
    )
