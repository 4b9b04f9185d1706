"""Every scope that is searched, with all rules in force and with some of them taken out.

A `Ground` is a scope in which a model holds. A `Hole` is what is found there without some rule. The
first are proof as far as they reach; the second say what each rule is for.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from tests.model import (
    behind_state,
    clock_model,
    cold_model,
    file_model,
    nodes_model,
    poison_model,
    protocol_rules,
)
from tests.model.behind_model import Behind
from tests.model.checker import Search, search, search_hope
from tests.model.cold_model import Cold
from tests.model.protocol_model import Protocol

# Words of the table, in the order of its rows.
PROTOCOL, COLD, BEHIND = "settle, fence, rebuild", "cold accounts", "Postgres behind"
SMALL = "small models"


@dataclass(frozen=True, slots=True)
class Ground:
    """One scope of one model, in which it holds."""

    family: str
    about: str
    scope: Any
    """What bounds the model; for a small one, that has no bounds to set, its class."""
    hopes: bool = False
    """Whether it is also searched for states that are beyond hope."""
    far: bool = False
    """Whether it takes too long for every run of the tests."""

    @property
    def rules(self) -> Any:
        """The rules of its model, a class of switches."""
        return _SMALL[self.scope] if self.scope in _SMALL else _KINDS[type(self.scope)][1]

    def model(self, out: tuple[str, ...] = ()) -> Any:
        """The model, with some rules taken out."""
        obeyed = self.rules()._replace(**dict.fromkeys(out, False))
        if self.scope in _SMALL:
            return self.scope(obeyed)
        return _KINDS[type(self.scope)][0](self.scope, obeyed)


_KINDS: dict[type, tuple[Any, Any]] = {
    protocol_rules.Scope: (Protocol, protocol_rules.Rules),
    cold_model.Scope: (Cold, cold_model.Rules),
    behind_state.Scope: (Behind, behind_state.Rules),
}
_SMALL: dict[Any, Any] = {
    clock_model.Clock: clock_model.Rules,
    file_model.File: file_model.Rules,
    nodes_model.Nodes: nodes_model.Rules,
    poison_model.Poison: poison_model.Rules,
}


def _protocol(**bounds: Any) -> protocol_rules.Scope:
    return protocol_rules.Scope(**bounds)


def _cold(**bounds: Any) -> cold_model.Scope:
    return cold_model.Scope(**bounds)


def _behind(**bounds: Any) -> behind_state.Scope:
    return behind_state.Scope(**bounds)


_ALONE: dict[str, Any] = {"replica": False}
_VETTERS: dict[str, Any] = {"leasers": 0, "settlers": 0, "settled": True, "entries": 1}

GROUNDS: dict[str, Ground] = {
    "failover": Ground(
        PROTOCOL,
        "a failover to a replica that lags; the old primary goes on for whoever still reaches it",
        _protocol(settled=True, failovers=1),
        hopes=True,
    ),
    "there and back": Ground(
        PROTOCOL,
        "two failovers: to the replica, and back to the first primary, which kept its scripts",
        _protocol(entries=1, failovers=2),
    ),
    "older file": Ground(
        PROTOCOL,
        "one Redis: a restart, perhaps onto an older append-only file, and a FLUSHALL",
        _protocol(restarts=1, flushes=1, older_file=True, **_ALONE),
    ),
    "flush": Ground(
        PROTOCOL,
        "one Redis that writes through: a restart and a FLUSHALL",
        _protocol(restarts=1, flushes=1, **_ALONE),
        hopes=True,
    ),
    "Postgres away": Ground(
        PROTOCOL,
        "a failover, while Postgres may seem away to the worker that renews leases",
        _protocol(settlers=0, entries=1, failovers=1, finish=2),
    ),
    "two settlers": Ground(
        PROTOCOL,
        "two workers that both settle, and an operator who asks for a rebuild",
        _protocol(settlers=2, entries=3, rebuilds=1, **_ALONE),
    ),
    "two vetters": Ground(
        PROTOCOL,
        "two vetters at the same time, each stopped or dead anywhere, after a failover",
        _protocol(vetters=2, failovers=1, **_VETTERS),
    ),
    "two vetters, one Redis": Ground(
        PROTOCOL,
        "the same, after a restart and a FLUSHALL",
        _protocol(vetters=2, restarts=1, flushes=1, **_ALONE, **_VETTERS),
    ),
    "operator": Ground(
        PROTOCOL,
        "an operator's rebuild, and a restart onto an older file in the middle of it",
        _protocol(settled=True, rebuilds=1, restarts=1, older_file=True, **_ALONE),
        hopes=True,
    ),
    "two opinions": Ground(
        PROTOCOL,
        "a failover after which vetters disagree on who is primary, from one step to the next",
        _protocol(failovers=1, roaming=True, **_VETTERS),
    ),
    "balances": Ground(
        COLD,
        "an account that spends, is evicted and loaded by two loaders, and two rebuilds",
        _cold(entries=4, spends=True, loaders=2, rebuilds=2),
        hopes=True,
    ),
    "calls": Ground(
        COLD,
        "a call that is retried, by askers that look for its record in Postgres, and a rebuild",
        _cold(entries=2, spends=True, calls=True, loaders=2, askers=2),
        hopes=True,
    ),
    "refunds": Ground(
        COLD,
        "refunds of one charge, whose record comes and goes, and a rebuild",
        _cold(entries=3, spends=True, refunds=True, askers=2),
    ),
    "grants": Ground(
        COLD,
        "a grant that two runners of the outbox apply, and a rebuild",
        _cold(entries=3, spends=True, grants=True, runners=2),
    ),
    "one fall": Ground(
        BEHIND,
        "Postgres falls back, a vetter dies",
        _behind(),
        hopes=True,
    ),
    "two falls": Ground(
        BEHIND,
        "Postgres falls back twice, a vetter dies",
        _behind(entries=3, falls=2),
        hopes=True,
    ),
    "fall and loss": Ground(
        BEHIND,
        "Postgres falls back, Redis loses its tail, a vetter dies",
        _behind(losses=1),
        hopes=True,
    ),
    "loss": Ground(
        BEHIND,
        "Redis loses its tail",
        _behind(falls=0, losses=1, deaths=0),
        hopes=True,
    ),
    "fall and rebuild": Ground(
        BEHIND,
        "Postgres falls back while an operator's rebuild goes on, and the vetter dies",
        _behind(rebuilds=1),
        hopes=True,
    ),
    "stalled settlers": Ground(
        BEHIND,
        "the same with a loss instead of the rebuild, and two settlers that may be stopped",
        _behind(losses=1, deaths=0, settlers=2),
        hopes=True,
    ),
    "clock": Ground(SMALL, "Redis's clock jumps twice, either way", clock_model.Clock),
    "file": Ground(SMALL, "Redis is killed three times and may tear its file", file_model.File),
    "nodes": Ground(
        SMALL, "two nodes with a shard each go down and come back", nodes_model.Nodes, hopes=True
    ),
    "poison": Ground(
        SMALL,
        "two accounts, one of which makes entries that Postgres does not take",
        poison_model.Poison,
        hopes=True,
    ),
    "far: there and back": Ground(
        PROTOCOL,
        "two failovers, one entry settled and one more",
        _protocol(settled=True, failovers=2),
        far=True,
    ),
    "far: half leases": Ground(
        PROTOCOL,
        "a failover, with ticks of half a lease",
        _protocol(settled=True, failovers=1, lease=2, entries=3),
        hopes=True,
        far=True,
    ),
    "far: three workers": Ground(
        PROTOCOL,
        "a failover, two settlers, two leasers, one vetter",
        _protocol(settled=True, failovers=1, settlers=2, leasers=2),
        far=True,
    ),
    "far: older file": Ground(
        PROTOCOL,
        "two restarts onto older files and a FLUSHALL",
        _protocol(restarts=2, flushes=1, older_file=True, **_ALONE),
        far=True,
    ),
    "far: two opinions": Ground(
        PROTOCOL,
        "two vetters that disagree on who is primary",
        _protocol(vetters=2, failovers=1, roaming=True, **_VETTERS),
        far=True,
    ),
    "far: calls": Ground(
        COLD,
        "a call that is retried over two rebuilds, with a longer log",
        _cold(entries=3, spends=True, calls=True, loaders=2, askers=2, rebuilds=2),
        far=True,
    ),
    "far: fall and loss": Ground(
        BEHIND,
        "Postgres falls back, Redis loses its tail, three entries",
        _behind(entries=3, losses=1),
        hopes=True,
        far=True,
    ),
    "far: everything behind": Ground(
        BEHIND,
        "a fall, a loss, an operator's rebuild, a death, a settler that may be stopped",
        _behind(losses=1, rebuilds=1, settlers=1),
        hopes=True,
        far=True,
    ),
}


@dataclass(frozen=True, slots=True)
class Hole:
    """What is found on a ground once some rules are taken out; a harmless one is not found."""

    rule: str
    """Its number in the protocol; `+` where the protocol had not said it before it was searched."""
    taken_out: str
    ground: str
    out: tuple[str, ...]
    story: str
    """What happens, in a line; of a harmless one, why nothing does."""
    fault: str = ""
    """What the search must find wrong in the end; empty for a harmless one."""

    @property
    def name(self) -> str:
        """The switches that are off, and where."""
        return f"{self.rule}: {', '.join(self.out)} ({self.ground})"


@functools.cache
def ground_search(name: str) -> Search:
    """Search a ground, with every rule in force. Once a run."""
    ground = GROUNDS[name]
    return (search_hope if ground.hopes else search)(ground.model())


@functools.cache
def hole_search(hole: Hole) -> Search:
    """Search for a hole. Once a run."""
    ground = GROUNDS[hole.ground]
    return (search_hope if ground.hopes else search)(ground.model(hole.out))
