"""The vetter of the protocol's model: from the look at a boot to the opening of a shard.

    look ─▶ declare ─▶ raise ─▶ load ─▶ compare ─┬─▶ adopt ─────────────────────────────▶ open
                                                 └─▶ set aside ─▶ delete ─▶ restart ────▶ open

Each arrow is a step; before each one, anything else may happen, and the vetter may die.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.protocol_rules import Rules, Scope
from tests.model.protocol_state import (
    ADOPTS,
    DECLARED,
    DELETES,
    EMPTIED,
    GONE,
    LOADED,
    LOOKED,
    NAMES,
    OPEN,
    RAISED,
    REBUILDING,
    REBUILDS,
    RESTARTED,
    VETTING,
    Data,
    Row,
    Vetter,
    World,
    runs,
)

Steps = Iterator[tuple[str, World]]


class Vetting:
    """The steps of one vetter, by the rules and within the scope of a search."""

    def __init__(self, scope: Scope, rules: Rules) -> None:
        self.scope = scope
        self.rules = rules

    def steps(self, world: World, which: int) -> Steps:
        """What the vetter number `which` may do next."""
        vetter, who = world.vetters[which], f"vetter {which + 1}"
        if vetter.phase == 0:
            yield from self._look(world, which)
            return
        yield f"{who} dies", world.with_vetter(which, Vetter())
        if vetter.phase == LOOKED:
            yield self._declare(world, which)
        elif vetter.phase in (ADOPTS, RESTARTED):
            yield from self._open(world, which)
        else:
            for node, redis in enumerate(world.nodes):
                if redis.primary and (self.scope.roaming or node == vetter.target):
                    if vetter.phase in (REBUILDS, DELETES, EMPTIED):
                        yield from self._rebuild(world, which, node)
                    else:
                        yield from self._vet(world, which, node)

    def is_over(self, vetter: Vetter, row: Row, copies: set[int]) -> bool:
        """Whether another generation was declared and this vetter can do nothing but find out.

        `copies` are the generations that any copy of the shard is in.
        """
        if vetter.phase <= LOOKED or vetter.generation == row.generation:
            return False
        if vetter.phase == DECLARED:
            return min(copies) >= vetter.generation
        if vetter.phase == DELETES and not self.rules.delete_compares_nonce:
            return False
        return vetter.phase not in (RAISED, DELETES) or vetter.generation not in copies

    def _look(self, world: World, which: int) -> Steps:
        row, who = world.row, f"vetter {which + 1}"
        mark = 0 if self.rules.mark_read_after_declaring else len(row.journal)
        for node, redis in enumerate(world.nodes):
            if redis.primary and (self.scope.roaming or node == world.named):
                looked = Vetter(LOOKED, node, node, mark=mark)
                if self._is_suspect(world, node):
                    yield f"{who} reads the boot of {NAMES[node]}", world.with_vetter(which, looked)
                if world.rebuilds:
                    asked = world.with_vetter(which, looked._replace(forced=True))
                    sentence = f"{who} is asked to rebuild {NAMES[node]}, and reads its boot"
                    yield sentence, asked._replace(rebuilds=world.rebuilds - 1)

    @staticmethod
    def _is_suspect(world: World, node: int) -> bool:
        row, redis = world.row, world.nodes[node]
        return (
            row.boot != node
            or row.state != OPEN
            or not runs(redis, row.generation)
            or redis.data.torn == 2
            or redis.data.log[: len(row.journal)] != row.journal
        )

    def _declare(self, world: World, which: int) -> tuple[str, World]:
        vetter, row = world.vetters[which], world.row
        number, rebuilding = row.generation + 1, row.state == REBUILDING
        late = self.rules.mark_read_after_declaring
        declared = vetter._replace(
            phase=DECLARED,
            generation=number,
            mark=len(row.journal) if late else vetter.mark,
            forced=vetter.forced or (rebuilding and self.rules.row_remembers_rebuild),
        )
        now = row._replace(generation=number, state=REBUILDING if rebuilding else VETTING)
        after = world.with_vetter(which, declared)._replace(row=now)
        return f"vetter {which + 1} declares generation {number}", after

    def _vet(self, world: World, which: int, node: int) -> Steps:
        vetter, redis = world.vetters[which], world.nodes[node]
        who, name, data, number = f"vetter {which + 1}", NAMES[node], redis.data, vetter.generation
        if vetter.phase == DECLARED and data.generation <= number:
            raised = data
            if data.generation < number:
                drops = self.rules.raise_drops_leases
                new, finish = (0, 0) if drops else (-abs(data.new), -abs(data.finish))
                raised = data._replace(generation=number, new=new, finish=finish)
            after = world.with_data(node, raised)
            yield f"{who} raises {name}", after.with_vetter(which, vetter._replace(phase=RAISED))
        elif vetter.phase == RAISED:
            loaded = redis._replace(scripts=tuple(sorted({*redis.scripts, number})))
            after = world.with_node(node, loaded)
            sentence = f"{who} loads the scripts of {number} into {name}"
            yield sentence, after.with_vetter(which, vetter._replace(phase=LOADED))
        elif vetter.phase == LOADED and runs(redis, number):
            fit = self._is_adoptable(vetter, data, world.row)
            judged = vetter._replace(phase=ADOPTS if fit else REBUILDS)
            sentence = f"{who} compares {name}: {'adopt' if fit else 'rebuild'}"
            yield sentence, world.with_vetter(which, judged)

    def _is_adoptable(self, vetter: Vetter, data: Data, row: Row) -> bool:
        if not self.rules.adopt_compares:
            return True
        if vetter.forced or (data.torn and self.rules.redis_remembers_rebuild):
            return False
        stream_is_gone = data.torn == 2 and len(data.log) > vetter.mark
        return data.log[: vetter.mark] == row.journal[: vetter.mark] and not stream_is_gone

    def _rebuild(self, world: World, which: int, node: int) -> Steps:
        vetter, redis, row = world.vetters[which], world.nodes[node], world.row
        who, name, data = f"vetter {which + 1}", NAMES[node], redis.data
        mine = runs(redis, vetter.generation)
        unlent = not data.new and not data.finish
        valid = row.generation == vetter.generation and mine
        if vetter.phase == REBUILDS and valid:
            prefix = data.torn < 2 and data.log[: len(row.journal)] == row.journal
            now = row._replace(state=REBUILDING, journal=data.log if prefix else row.journal)
            after = world.with_vetter(which, vetter._replace(phase=DELETES))._replace(row=now)
            yield f"{who} settles what is valid in {name}; the row says rebuilding", after
        elif vetter.phase == DELETES and unlent:
            if mine or (redis.scripts and not self.rules.delete_compares_nonce):
                torn = min(data.torn + 1, 2)
                after = world.with_data(node, data._replace(torn=torn))
                left = vetter._replace(phase=EMPTIED if torn == 2 else DELETES)
                sentence = f"{who} deletes {'the rest' if torn == 2 else 'some keys'} of {name}"
                yield sentence, after.with_vetter(which, left)
        elif vetter.phase == EMPTIED and valid and unlent and data.torn == 2:
            after = world.with_data(node, data._replace(log=row.journal, torn=0))
            restarted = after.with_vetter(which, vetter._replace(phase=RESTARTED))
            yield f"{who} starts {name} at the journal's mark", restarted

    def _open(self, world: World, which: int) -> Steps:
        vetter, row = world.vetters[which], world.row
        moved = row.boot != vetter.boot
        if moved and row.proof < self.scope.lease and self.rules.open_pauses:
            return
        if row.generation != vetter.generation or row.state == OPEN:
            return
        opened = row._replace(state=OPEN, boot=vetter.boot)
        after = world.with_vetter(which, Vetter())._replace(row=opened)
        if vetter.boot != GONE:
            redis = world.nodes[vetter.boot]
            if redis.primary and redis.data.generation == vetter.generation:
                after = after.with_node(vetter.boot, redis._replace(vetted=True, grace=0))
        yield f"vetter {which + 1} opens {NAMES[vetter.target]}", after
