"""Postgres that falls back, as a model: its replica is promoted, and lacks the last commits.

One shard in one Redis, one vetter, one settler, one caller who waits for `settled`. Falling back
takes back whatever a row said: marks and journal, but also generation, nonce, state and boot. Redis
may lose its tail as well, by a restart onto an older file, and it is trimmed up to what it knows to
be settled. Leases end at any time; that they last is another model's concern.

What Redis and Postgres both lost is lost: `settled` promises no more than Postgres's replication
keeps. What either of them still has must not be lost by what we do.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.behind_state import (
    ADOPTS,
    DECLARED,
    DELETES,
    EMPTIED,
    MOST_GENERATIONS,
    OPEN,
    RAISED,
    REBUILDING,
    REBUILDS,
    REST,
    RESTARTED,
    STOPPED,
    STOPS,
    VETTING,
    WORDS,
    Batch,
    Name,
    Postgres,
    Redis,
    Rules,
    Scope,
    Vetter,
    World,
    changed,
)
from tests.model.protocol_state import Log, entry_after, is_chained

Steps = Iterator[tuple[str, World]]


class Behind:
    """The model. `rules` may have some taken out."""

    hopeless = "whatever follows, its entries are never all settled while it serves"

    def __init__(self, scope: Scope, rules: Rules) -> None:
        self.scope = scope
        self.rules = rules

    def start(self) -> World:
        scope, name = self.scope, Name(1, 1)
        postgres = Postgres(name, OPEN, 0, ())
        return World(
            postgres=postgres,
            standby=postgres,
            redis=Redis(name, 0, (), 0, 0, 0, 0, lent=False),
            vetter=Vetter(),
            batches=(Batch(),) * scope.settlers,
            waits=0,
            told=frozenset(),
            wrong="",
            whole=True,
            made=0,
            falls=scope.falls,
            losses=scope.losses,
            deaths=scope.deaths,
            rebuilds=scope.rebuilds,
        )

    def same(self, world: World) -> World:
        """Settlers have no names: they stand sorted."""
        return world._replace(batches=tuple(sorted(world.batches)))

    def hoped(self, world: World) -> bool:
        """The shard serves, with all of its entries settled, or it waits for an operator."""
        row, redis = world.postgres, world.redis
        return row.state == STOPPED or (redis.lent and row.journal == redis.log)

    def fault(self, world: World) -> str | None:
        row, redis = world.postgres, world.redis
        if world.wrong:
            return world.wrong
        if not is_chained(row.journal):
            return "the journal has a gap, a fork, or an entry twice"
        if row.state != OPEN or row.name != redis.name or row.boot != redis.boot:
            return None
        if redis.torn:
            return "the shard is open, and keys of it were deleted"
        if redis.log[: len(row.journal)] != row.journal:
            return "the shard is open, and lacks entries that are settled"
        if not world.told.issubset(redis.log):
            return "the shard is open, and lacks an entry whose caller was told `settled`"
        return None

    def steps(self, world: World) -> Steps:
        yield from self._redis(world)
        yield from self._postgres(world)
        yield from self._settle(world)
        yield from self._vetter(world)

    # Redis, and who calls it

    def _redis(self, world: World) -> Steps:
        redis, row = world.redis, world.postgres
        current = row.state == OPEN and row.name == redis.name
        if redis.lent:
            yield "the leases end", world._replace(redis=redis._replace(lent=False))
            if world.made < self.scope.entries:
                entry = entry_after(redis.log, world.made + 1)
                grown = redis._replace(log=(*redis.log, entry))
                taken = world._replace(redis=grown, made=world.made + 1)
                yield f"Redis takes entry {len(grown.log)}", taken
                if not world.waits:
                    sentence = f"Redis takes entry {len(grown.log)}, whose caller waits"
                    yield sentence, taken._replace(waits=entry)
        elif current and row.boot == redis.boot:
            yield "Redis is lent its leases", world._replace(redis=redis._replace(lent=True))
        if current and redis.settled < len(row.journal):
            known = redis._replace(settled=len(row.journal))
            yield "Redis is told the mark", world._replace(redis=known)
        surely = min(redis.settled, len(row.journal))
        if current and redis.trimmed < surely:
            trimmed = redis._replace(trimmed=surely)
            yield "the stream is trimmed", world._replace(redis=trimmed)
        if world.losses:
            for left in range(redis.trimmed, len(redis.log)):
                yield self._loss(world, left)
        yield from self._waiter(world)

    def _loss(self, world: World, left: int) -> tuple[str, World]:
        """A restart, onto a file that ends with the entry number `left`."""
        redis = world.redis
        log = redis.log[:left]
        found = redis._replace(
            log=log, settled=min(redis.settled, left), boot=redis.boot + 1, lent=False
        )
        lost = {*redis.log} - {*log} - {*world.postgres.journal}
        after = world._replace(redis=found, whole=False, losses=world.losses - 1)
        sentence = f"Redis restarts, and its file ends at entry {left}"
        return sentence, after._replace(told=world.told - lost)

    def _waiter(self, world: World) -> Steps:
        """Somebody waits until the journal has his entry."""
        journal, number = world.postgres.journal, world.waits & 7
        if not world.waits or number > len(journal):
            return
        if journal[number - 1] == world.waits:
            yield "the waiting caller is told `settled`", world._replace(waits=0)
        elif not self.rules.told_by_chain:
            lie = "a caller was told `settled`, and the journal has another entry"
            yield "the waiting caller is told `settled`", world._replace(wrong=lie)

    # Postgres

    def _postgres(self, world: World) -> Steps:
        if world.standby == world.postgres:
            return
        yield "Postgres's replica catches up", world._replace(standby=world.postgres)
        if world.falls:
            ends = self.rules.batch_ends_with_connection
            kept = (Batch(),) * len(world.batches) if ends else world.batches
            lost = {*world.postgres.journal} - {*world.standby.journal} - {*world.redis.log}
            yield (
                "Postgres's replica is promoted, and Postgres has fallen back",
                world._replace(
                    postgres=world.standby,
                    batches=kept,
                    falls=world.falls - 1,
                    told=world.told - lost,
                ),
            )

    def _settle(self, world: World) -> Steps:
        row, redis = world.postgres, world.redis
        mark = len(row.journal)
        links = redis.trimmed <= mark < len(redis.log) and redis.log[:mark] == row.journal
        readable = row.state == OPEN and row.name == redis.name and redis.torn < 2
        # What Redis has settled and Postgres has not is a doubt: vetting looks first.
        sound = readable and links and redis.settled <= mark
        if sound and not world.batches:
            yield self._settled(world, redis.log[mark:])
        for which, batch in enumerate(world.batches):
            who = f"settler {which + 1}"
            without = world._replace(batches=changed(world.batches, which, Batch()))
            if batch.entries:
                fits = (row.name.nonce, mark) == (batch.nonce, batch.mark)
                if fits and row.state == OPEN:
                    yield self._settled(without, batch.entries)
                else:
                    yield f"{who} is refused", without
            elif sound:
                read = Batch(row.name.nonce, mark, redis.log[mark:])
                batches = changed(world.batches, which, read)
                yield f"{who} reads entries", world._replace(batches=batches)

    @staticmethod
    def _settled(world: World, entries: Log) -> tuple[str, World]:
        journal = world.postgres.journal + entries
        after = world._replace(
            postgres=world.postgres._replace(journal=journal),
            told=world.told | {*entries},
        )
        return f"Postgres settles to entry {len(journal)}", after

    # Vetting

    def _vetter(self, world: World) -> Steps:
        vetter, redis, row = world.vetter, world.redis, world.postgres
        if vetter.phase == REST:
            if row.state == STOPPED or row.name.number == MOST_GENERATIONS:
                return
            if self._is_suspect(world):
                yield self._declare(world, forced=False)
            if world.rebuilds:
                asked = world._replace(rebuilds=world.rebuilds - 1)
                yield self._declare(asked, forced=True)
            return
        if world.deaths:
            left = world._replace(vetter=Vetter(), deaths=world.deaths - 1)
            yield "the vetter dies", left
        mine = redis.name == vetter.name and redis.boot == vetter.boot
        fits = redis.name.number < vetter.name.number and redis.boot == vetter.boot
        if vetter.phase == DECLARED and fits:
            raised = redis._replace(name=vetter.name, lent=False)
            after = world._replace(redis=raised, vetter=vetter._replace(phase=RAISED))
            yield "the vetter raises Redis, and loads its scripts", after
        elif vetter.phase == RAISED and mine:
            fate = self._judged(world)
            judged = world._replace(vetter=vetter._replace(phase=fate))
            yield f"the vetter compares: {WORDS[fate]}", judged
        elif vetter.phase == DELETES and mine:
            torn = redis.torn + 1
            emptied = vetter._replace(phase=DELETES if torn < 2 else EMPTIED)
            what = "some keys" if torn < 2 else "the rest"
            noted = vetter.mark if self.rules.remnant_knows_mark else 0
            remnant = redis._replace(torn=torn, remnant=max(redis.remnant, noted))
            deleted = world._replace(redis=remnant, vetter=emptied)
            yield f"the vetter deletes {what}", deleted
        elif vetter.phase >= STOPS and vetter.phase != DELETES and row.name == vetter.name:
            yield from self._in_postgres(world, mine)
        else:
            yield "the vetter finds that it was overtaken", world._replace(vetter=Vetter())

    @staticmethod
    def _is_suspect(world: World) -> bool:
        row, redis = world.postgres, world.redis
        mark = len(row.journal)
        return (
            row.state != OPEN
            or row.name != redis.name
            or row.boot != redis.boot
            or redis.settled > mark
            or redis.log[:mark] != row.journal
        )

    def _declare(self, world: World, forced: bool) -> tuple[str, World]:
        row, here = world.postgres, world.redis.name
        known = [row.name.nonce, here.nonce, world.standby.name.nonce]
        known += [batch.nonce for batch in world.batches]
        # A nonce that nobody knows any more is as good as one that never was.
        nonce = next(nonce for nonce in range(1, len(known) + 2) if nonce not in known)
        name = Name(max(row.name.number, here.number) + 1, nonce)
        rebuilding = row.state == REBUILDING
        now = row._replace(name=name, state=REBUILDING if rebuilding else VETTING)
        remembered = rebuilding and self.rules.row_remembers_rebuild
        vetter = Vetter(DECLARED, name, world.redis.boot, forced or remembered)
        after = world._replace(postgres=now, vetter=vetter)
        why = "is asked for a rebuild, and" if forced else "has a doubt, and"
        return f"the vetter {why} declares generation {name.number}", after

    def _judged(self, world: World) -> int:
        redis, journal, rules = world.redis, world.postgres.journal, self.rules
        sound = self._is_sound(redis, journal)
        valid = len(redis.log) if sound else len(journal)
        if max(redis.settled, redis.remnant) > valid and rules.behind_stops:
            return STOPS
        remnant = redis.torn > 0 and rules.redis_remembers_rebuild
        return ADOPTS if sound and not remnant and not world.vetter.forced else REBUILDS

    @staticmethod
    def _is_sound(redis: Redis, journal: Log) -> bool:
        """Whether the stream goes on from where the journal ends."""
        mark = len(journal)
        there = redis.trimmed <= mark and (redis.torn < 2 or len(redis.log) == mark)
        return there and redis.log[:mark] == journal

    def _in_postgres(self, world: World, mine: bool) -> Steps:
        """The steps whose last word is Postgres's."""
        vetter, redis, row = world.vetter, world.redis, world.postgres
        mark = len(row.journal)
        behind = redis.settled > mark and self.rules.vetter_replays
        if vetter.phase == STOPS:
            stopped = world._replace(postgres=row._replace(state=STOPPED), vetter=Vetter())
            yield "the vetter stops the shard", stopped
        elif vetter.phase == RESTARTED or (vetter.phase == ADOPTS and not behind):
            opened = row._replace(state=OPEN, boot=vetter.boot)
            yield "the vetter opens the shard", world._replace(postgres=opened, vetter=Vetter())
        elif vetter.phase == ADOPTS and mine and self._is_sound(redis, row.journal):
            sentence, settled = self._settled(world, redis.log[mark:])
            yield f"{sentence}, again", settled
        elif vetter.phase == REBUILDS and mine:
            yield self._set_aside(world)
        elif vetter.phase == EMPTIED and mine and mark < redis.remnant:
            stops = world._replace(vetter=vetter._replace(phase=STOPS))
            yield "the vetter finds that Postgres has fallen back", stops
        elif vetter.phase == EMPTIED and mine:
            restarted = redis._replace(
                log=row.journal, trimmed=mark, settled=mark, torn=0, remnant=0
            )
            after = world._replace(redis=restarted, vetter=vetter._replace(phase=RESTARTED))
            yield "the vetter starts the shard at the journal's mark", after
        else:
            yield "the vetter finds that it was overtaken", world._replace(vetter=Vetter())

    def _set_aside(self, world: World) -> tuple[str, World]:
        """What can be settled is settled; from here on the row remembers the rebuild."""
        vetter, redis, row = world.vetter, world.redis, world.postgres
        sound = redis.torn < 2 and self._is_sound(redis, row.journal)
        settles = sound and self.rules.rebuild_settles_prefix
        journal = redis.log if settles else row.journal
        thrown = world.whole and not {*redis.log}.issubset(journal)
        return "the vetter settles what is valid; the row says rebuilding", world._replace(
            postgres=row._replace(state=REBUILDING, journal=journal),
            vetter=vetter._replace(phase=DELETES, mark=len(journal)),
            told=world.told | {*journal},
            wrong="what a healthy Redis held is thrown away" if thrown else "",
        )
