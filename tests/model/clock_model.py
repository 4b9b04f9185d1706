"""The clock of a Redis that jumps, as a model with a clock of a few ticks.

A hold with a deadline, a lease that Redis itself ends by its own clock, the time that the lease
script recorded; and the record of a charge, which Redis is to keep for longer than this lasts and
ends by its own clock as well. True time is what Postgres and the worker tell; Redis's may jump by
more than anything else lasts, and is set right again. A worker looks in between: what comes and
goes between two looks is left to a witness that is not certain.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

HELD, EXPIRED, COMMITTED = range(3)
DEADLINE: Final = 4
LEASE: Final = 2
SLACK: Final = 1
JUMP: Final = 20
LAST: Final = 10
"""Ticks after which nothing is looked at any more."""
WINDOW: Final = 15
"""Until then the charge's key is remembered."""
NEVER: Final = -100
"""Before all that any clock may tell."""


class Rules(NamedTuple):
    """What the protocol demands. One that is False was taken out."""

    lease_needs_a_sane_clock: bool = True
    scripts_compare_recorded: bool = True
    scripts_record_nothing: bool = True
    ahead_is_rebuilt: bool = True
    """A worker notes that the clock was ahead, and the shard is rebuilt before it has a lease."""


class Moment(NamedTuple):
    """Everything."""

    true: int
    offset: int
    recorded: int
    """`meta.clock_ms`."""
    lease_ends: int
    """By Redis's clock."""
    hold: int
    record: bool
    """Whether Redis knows the charge, which the journal has."""
    looked: bool
    """Whether a worker has compared the clocks since the last jump."""
    ahead: bool
    """Whether Redis was told that its clock was ahead, and is to be rebuilt."""
    wrong: str
    jumps: int

    @property
    def told(self) -> int:
        """What TIME answers."""
        return self.true + self.offset


class Clock:
    """The model. `rules` may have some taken out."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def start(self) -> Moment:
        return Moment(0, 0, NEVER, NEVER, HELD, True, True, False, "", 2)

    def same(self, moment: Moment) -> Moment:
        return moment

    def fault(self, moment: Moment) -> str | None:
        if moment.wrong:
            return moment.wrong
        if moment.offset == 0 and moment.recorded > moment.told + SLACK:
            return "Redis's clock is right, and the shard is closed until it is much later"
        return None

    def steps(self, moment: Moment) -> Iterator[tuple[str, Moment]]:
        rules = self.rules
        if moment.true < LAST:
            yield "time passes", moment._replace(true=moment.true + 1)
        if moment.jumps and moment.looked:
            jumped = moment._replace(jumps=moment.jumps - 1, looked=False)
            yield "Redis's clock jumps forward", jumped._replace(offset=JUMP)
            yield "Redis's clock jumps back", jumped._replace(offset=-JUMP)
        if moment.offset and moment.looked:
            yield "Redis's clock is set right", moment._replace(offset=0)
        yield from self._clock_is_looked_at(moment)
        sane = moment.offset == 0 or not rules.lease_needs_a_sane_clock
        if sane and not moment.ahead and self._is_believed(moment):
            ends, recorded = moment.told + LEASE, max(moment.told, moment.recorded)
            lent = moment._replace(lease_ends=ends, recorded=recorded, looked=True)
            yield "a worker renews the lease", lent
        yield from self._scripts(moment)

    def _clock_is_looked_at(self, moment: Moment) -> Iterator[tuple[str, Moment]]:
        if moment.told >= WINDOW and moment.record:
            yield "Redis ends the record", moment._replace(record=False)
        looked = moment._replace(looked=True)
        if moment.offset > 0 and self.rules.ahead_is_rebuilt:
            looked = looked._replace(ahead=True, lease_ends=NEVER)
        yield "a worker compares the clocks", looked
        if moment.ahead and moment.offset <= 0:
            yield "the shard is rebuilt", moment._replace(ahead=False, record=True)

    def _is_believed(self, moment: Moment) -> bool:
        compares = self.rules.scripts_compare_recorded
        return not compares or moment.told >= moment.recorded - SLACK

    def _scripts(self, moment: Moment) -> Iterator[tuple[str, Moment]]:
        now = moment.told
        if not self.rules.scripts_record_nothing:
            moment = moment._replace(recorded=max(now, moment.recorded))
            now = moment.recorded
            yield "a script records the time", moment
        if moment.lease_ends <= moment.told or not self._is_believed(moment):
            return
        if not moment.record and moment.true < WINDOW:
            twice = "a charge was repeated with its key, and made twice"
            yield "the charge is repeated", moment._replace(record=True, wrong=twice)
        if moment.hold != HELD:
            return
        if now >= DEADLINE:
            early = "a hold expired before its deadline" if moment.true < DEADLINE else ""
            yield "the hold expires", moment._replace(hold=EXPIRED, wrong=early)
        else:
            late = "a hold was committed in time, after its deadline"
            wrong = late if moment.true >= DEADLINE else ""
            yield "the hold is committed", moment._replace(hold=COMMITTED, wrong=wrong)
