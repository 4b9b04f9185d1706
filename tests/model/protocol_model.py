"""Settle, fence and rebuild, as a model: which Redis may answer, and what Postgres then has.

Two instances, A and B, of which B begins as A's replica. Failovers (the old primary may go on,
reachable by whoever is still connected), demotions, restarts, also from an older append-only file,
FLUSHALL. Workers are taken apart into loops, each a small program that can be stopped anywhere for
any time, for it moves only when it is chosen: settlers (read and verify, transaction), leasers
(TIME, proof of life, lease script), vetters (look and read the boot; declare; raise; load; judge;
adopt, or set aside, delete, restart; open), which may die after every step. Callers know every
nonce that there ever was, so knowing one opens nothing.

Larger than life, so that what holds here needs less: nothing keeps two vetters apart (the advisory
lock only saves generations), any loop may work on any primary, Postgres may seem away at any time.

A tick is a whole lease, or half of one where `Scope.lease` is 2; ages count as far as they matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.model.protocol_rules import Rules, Scope
from tests.model.protocol_state import (
    EMPTY,
    GONE,
    NAMES,
    NO_ONE,
    OPEN,
    PROVEN,
    REST,
    TAKEN,
    Data,
    Leaser,
    Redis,
    Row,
    Settler,
    Vetter,
    World,
    entry_after,
    is_chained,
    renumbered,
    runs,
)
from tests.model.protocol_vetting import Vetting

Steps = Iterator[tuple[str, World]]


class Protocol:
    """The model. `rules` may have some taken out."""

    hopeless = "whatever follows, the shard takes on no new spending any more"

    def __init__(self, scope: Scope, rules: Rules) -> None:
        self.scope = scope
        self.rules = rules
        self.vetting: Final = Vetting(scope, rules)
        self.quiet_end: Final = scope.finish + scope.lease if scope.finish else 0
        """Ticks after the last proof of life at which nothing may be answered any more."""

    def start(self) -> World:
        scope = self.scope
        log = (entry_after((), 1),) if scope.settled else ()
        a, b = (Data(1, has, 0, 0, 0) for has in (log, ()))
        kept = (a, b) if scope.older_file else (None, None)
        return World(
            row=Row(1, OPEN, 0, log, scope.lease),
            nodes=(
                Redis(True, a, kept[0], (1,), True, 0, self.quiet_end),
                Redis(False, b, kept[1], (), False, 0, self.quiet_end),
            ),
            settlers=(Settler(),) * scope.settlers,
            leasers=(Leaser(),) * scope.leasers,
            vetters=(Vetter(),) * scope.vetters,
            named=0,
            made=len(log),
            failovers=scope.failovers,
            restarts=scope.restarts,
            flushes=scope.flushes,
            rebuilds=scope.rebuilds,
        )

    def same(self, world: World) -> World:
        return renumbered(world)

    def hoped(self, world: World) -> bool:
        """New spending, where the cluster sends it, in the life that Postgres says."""
        row, redis = world.row, world.nodes[world.named]
        return (
            row.state == OPEN
            and row.boot == world.named
            and redis.data.generation == row.generation
            and redis.data.new > 0
            and runs(redis, row.generation)
        )

    # What is wrong

    def fault(self, world: World) -> str | None:
        row = world.row
        if not is_chained(row.journal):
            return "the journal has a gap, a fork, or an entry twice"
        for which, redis in enumerate(world.nodes):
            if redis.primary and (wrong := self._wrong_with(redis, which, row)):
                return wrong
        return None

    def _wrong_with(self, redis: Redis, which: int, row: Row) -> str | None:
        name, data, known = NAMES[which], redis.data, redis.vetted or redis.grace > 0
        if data.generation == NO_ONE or data.generation not in redis.scripts:
            return None
        if self._lends(data.finish):
            if not known:
                return f"{name} commits and replays, and nobody has vetted this boot of it"
            if self.quiet_end and redis.quiet >= self.quiet_end:
                return f"{name} commits on, long after its last proof of life"
            elsewhere = row.state == OPEN and row.boot != which
            if elsewhere and self._lends(data.new) and not redis.grace:
                return f"{name} takes on new spending, and so may another boot"
        elif not self.rules.replay_needs_lease and not known:
            return f"{name} answers a replay, and nobody has vetted this boot of it"
        if row.state == OPEN and row.boot == which and data.generation == row.generation:
            if redis.vetted and data.torn:
                return f"{name} is open, and keys of it were deleted"
            if redis.vetted and data.log[: len(row.journal)] != row.journal:
                return f"{name} is open, and lacks entries that are settled"
        return None

    def _lends(self, ticks: int) -> bool:
        return ticks > 0 or (ticks < 0 and not self.rules.lease_names_its_nonce)

    # What can happen

    def steps(self, world: World) -> Steps:
        for sentence, after in self._all_steps(world):
            yield sentence, self._forgotten(after)

    def _all_steps(self, world: World) -> Steps:
        yield self._tick(world)
        for which in range(2):
            yield from self._instance(world, which)
        for which in range(len(world.settlers)):
            yield from self._settler(world, which)
        for which in range(len(world.leasers)):
            yield from self._leaser(world, which)
        for which in range(len(world.vetters)):
            yield from self.vetting.steps(world, which)

    def _forgotten(self, world: World) -> World:
        """Loops that can do nothing more but find that out have found it out.

        Finding it out changes nothing else, and what a loop does next it can do at any time: so no
        order of steps is lost. Where the rule is taken out that would refuse a loop, it stays.
        """
        row, rules, scope = world.row, self.rules, self.scope
        copies = {redis.data.generation for redis in world.nodes}
        copies |= {redis.disk.generation for redis in world.nodes if redis.disk is not None}
        for which, settler in enumerate(world.settlers):
            if settler.batch and not self._can_settle(settler, row):
                world = world.with_settler(which, Settler())
        for which, leaser in enumerate(world.leasers):
            late = leaser.age >= scope.lease and rules.lease_counts_from_time
            unproven = not scope.finish and leaser.generation != row.generation
            useless = (leaser.boot == GONE and rules.lease_compares_boot) or (
                leaser.generation not in copies
            )
            if leaser.phase and (late or (unproven if leaser.phase == TAKEN else useless)):
                world = world.with_leaser(which, leaser.at_rest())
        for which, vetter in enumerate(world.vetters):
            if self.vetting.is_over(vetter, row, copies):
                world = world.with_vetter(which, Vetter())
        return world

    def _tick(self, world: World) -> tuple[str, World]:
        lease, finish = self.scope.lease, self.scope.finish

        def older(data: Data) -> Data:
            if not data.new and not data.finish:
                return data
            new, last = data.new, data.finish
            return data._replace(
                new=new - (new > 0) + (new < 0), finish=last - (last > 0) + (last < 0)
            )

        def aged(redis: Redis) -> Redis:
            return redis._replace(
                data=older(redis.data),
                disk=None if redis.disk is None else older(redis.disk),
                grace=max(redis.grace - 1, 0),
                quiet=min(redis.quiet + 1, self.quiet_end),
            )

        def waited(leaser: Leaser) -> Leaser:
            if leaser.phase:
                leaser = leaser._replace(age=min(leaser.age + 1, lease))
            if leaser.proven:
                leaser = leaser._replace(proven_age=min(leaser.proven_age + 1, finish))
                if leaser.proven_age == finish and self.rules.finish_ends:
                    leaser = leaser._replace(proven=NO_ONE, proven_boot=GONE, proven_age=0)
            return leaser

        row = world.row
        return "time passes", world._replace(
            row=row._replace(proof=min(row.proof + 1, lease)),
            nodes=(aged(world.nodes[0]), aged(world.nodes[1])),
            leasers=tuple([waited(leaser) for leaser in world.leasers]),
        )

    # Instances, and who calls them

    def _instance(self, world: World, which: int) -> Steps:
        redis, other = world.nodes[which], world.nodes[1 - which]
        name, data, scope = NAMES[which], redis.data, self.scope
        if not redis.primary:
            if world.failovers:
                up = world.with_node(which, redis._replace(primary=True))
                up = up._replace(failovers=world.failovers - 1, named=which)
                yield (
                    f"{name} is made primary; {NAMES[1 - which]} may not know",
                    up.without_boot(which),
                )
            if scope.replica and other.primary and other.data != data:
                yield (
                    f"{name} catches up with {NAMES[1 - which]}",
                    world.with_node(which, self._copied(redis, other.data)),
                )
            return
        serves = runs(redis, data.generation) and self._lends(data.finish)
        if serves and world.made < scope.entries:
            log = (*data.log, entry_after(data.log, world.made + 1))
            grown = world.with_data(which, data._replace(log=log))
            yield f"{name} takes entry {len(log)}", grown._replace(made=world.made + 1)
        if redis.disk is not None and redis.disk != data:
            yield f"{name} writes its file", world.with_node(which, redis._replace(disk=data))
        if other.primary and (scope.roaming or which != world.named):
            grace = scope.lease if redis.vetted else redis.grace
            down = self._copied(redis, other.data)._replace(
                primary=False, vetted=False, grace=grace
            )
            demoted = world.with_node(which, down).without_boot(which)
            yield f"{name} becomes a replica of {NAMES[1 - which]}", demoted
        if world.restarts:
            found = data if redis.disk is None else redis.disk
            fresh = redis._replace(data=found, scripts=(), vetted=False, grace=0)
            restarted = world.with_node(which, fresh)._replace(restarts=world.restarts - 1)
            yield f"{name} restarts", restarted.without_boot(which)
        if world.flushes:
            empty = self._copied(redis, EMPTY)._replace(vetted=False, grace=0)
            flushed = world.with_node(which, empty)._replace(flushes=world.flushes - 1)
            yield f"somebody flushes {name}", flushed
        unknown = world.row.state == OPEN and world.row.generation not in redis.scripts
        if unknown and not self.rules.scripts_loaded_once:
            loaded = redis._replace(scripts=(*redis.scripts, world.row.generation))
            yield f"a worker loads the scripts into {name} again", world.with_node(which, loaded)

    @staticmethod
    def _copied(redis: Redis, data: Data) -> Redis:
        return redis._replace(data=data, disk=None if redis.disk is None else data)

    # Settle

    def _can_settle(self, settler: Settler, row: Row) -> bool:
        rules = self.rules
        fits = settler.generation == row.generation or not rules.settle_compares_nonce
        return fits and (settler.mark == len(row.journal) or not rules.settle_compares_mark)

    def _settler(self, world: World, which: int) -> Steps:
        settler, row = world.settlers[which], world.row
        journal, mark, who = row.journal, len(row.journal), f"settler {which + 1}"
        if settler.batch:
            if row.state == OPEN:
                settled = row._replace(journal=journal + settler.batch)
                after = world.with_settler(which, Settler())._replace(row=settled)
                yield f"{who} settles to entry {len(settled.journal)}", after
            return
        if row.state != OPEN:
            return
        for node, redis in enumerate(world.nodes):
            log = redis.data.log
            reads = runs(redis, row.generation) or (
                redis.primary and redis.scripts and not self.rules.read_compares_nonce
            )
            if reads and redis.data.torn < 2 and len(log) > mark and log[:mark] == journal:
                batch = Settler(row.generation, mark, log[mark:])
                yield f"{who} reads entries from {NAMES[node]}", world.with_settler(which, batch)

    # Lease

    def _leaser(self, world: World, which: int) -> Steps:
        leaser, row, scope, rules = world.leasers[which], world.row, self.scope, self.rules
        who, rest = f"leaser {which + 1}", leaser.at_rest()
        provable = row.state == OPEN or not rules.proof_needs_open
        if leaser.phase == REST:
            if provable:
                taken = leaser._replace(phase=TAKEN, generation=row.generation, boot=row.boot)
                yield f"{who} reads Redis's TIME", world.with_leaser(which, taken)
            return
        left = scope.lease - leaser.age if rules.lease_counts_from_time else scope.lease
        if leaser.phase == TAKEN:
            if row.generation == leaser.generation and provable:
                yield self._proof(world, which)
            for node, redis in enumerate(world.nodes):
                # Postgres seems away: what this loop has proven itself may finish.
                if leaser.proven_boot == node and runs(redis, leaser.proven):
                    lent = world.with_data(node, redis.data._replace(finish=left))
                    sentence = f"{who} lends {NAMES[node]} a lease to finish, without Postgres"
                    yield sentence, lent.with_leaser(which, rest)
        for node, redis in enumerate(world.nodes):
            boot_fits = leaser.boot == node or not rules.lease_compares_boot
            if leaser.phase == PROVEN and boot_fits and runs(redis, leaser.generation):
                lent = world.with_data(node, redis.data._replace(new=left, finish=left))
                yield f"{who} lends {NAMES[node]} both leases", lent.with_leaser(which, rest)
        yield f"{who} gives up its round", world.with_leaser(which, rest)

    def _proof(self, world: World, which: int) -> tuple[str, World]:
        leaser = world.leasers[which]
        proven = leaser._replace(phase=PROVEN)
        if self.scope.finish:
            proven = proven._replace(
                proven=leaser.generation, proven_boot=leaser.boot, proven_age=0
            )
        after = world.with_leaser(which, proven)._replace(row=world.row._replace(proof=0))
        if leaser.boot != GONE:
            redis = world.nodes[leaser.boot]
            if redis.data.generation == leaser.generation:
                after = after.with_node(leaser.boot, redis._replace(quiet=0))
        return f"leaser {which + 1} writes its proof of life", after
