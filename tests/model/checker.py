"""Searches all states of a model, breadth first, so that what goes wrong is found by the shortest way.

A model says where it begins, which steps a state allows, and what is wrong with a state. A state is
a tuple of numbers, words and tuples (named ones, for the reader); it is never changed. A step is a
sentence and the state that it leads to. The search ends when no step leads to a state that was not
seen, so an answer "nothing goes wrong" is about every order in which the steps can happen, as far
as the model's bounds reach; or with the first state that is wrong.

`same` maps states that nobody can tell apart to one of them: another numbering of generations, two
workers that changed places. Whoever writes one has to prove there that every step and every
judgement commutes with it. Counterexamples are told without it, with the numbers as they came.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

State = TypeVar("State", bound=Hashable)

# Some 400 bytes a state: a search that needs more than this needs a smaller model.
MOST_STATES = 3_000_000


class Model(Protocol[State]):
    """What can be searched."""

    def start(self) -> State:
        """The state in which everything begins."""
        ...

    def steps(self, state: State) -> Iterable[tuple[str, State]]:
        """What can happen next: a sentence, and the state afterwards."""
        ...

    def fault(self, state: State) -> str | None:
        """What is wrong with this state, in a sentence; None if nothing is."""
        ...

    def same(self, state: State) -> State:
        """The one state that stands for all that cannot be told from this one."""
        ...


class Hopeful(Model[State], Protocol[State]):
    """A model that also says what must stay possible: no state may be beyond hope of it."""

    def hoped(self, state: State) -> bool:
        """Whether this is a state that must always be possible to reach."""
        ...


class TooMany(Exception):
    """The search was given up: more states than it was told to look at."""


@dataclass(frozen=True, slots=True)
class Counterexample:
    """The shortest way to a state that is wrong."""

    steps: tuple[str, ...]
    fault: str

    def __str__(self) -> str:
        lines = [f"{number:3}. {step}" for number, step in enumerate(self.steps, start=1)]
        return "\n".join([*lines, f"  => {self.fault}"])


@dataclass(frozen=True, slots=True)
class Search:
    """What a search looked at, and what it found. Without a counterexample it was complete."""

    states: int
    steps: int
    depth: int
    """Steps from the start to the state that is farthest away (of those looked at)."""
    seconds: float
    counterexample: Counterexample | None


def search(model: Model[State], most: int = MOST_STATES) -> Search:
    """Look at every state. Raises TooMany beyond `most` states."""
    return _Searching(model, most).run()


def search_hope(model: Hopeful[State], most: int = MOST_STATES) -> Search:
    """Look at every state, and then for one from which what is hoped for cannot be reached any more.

    Raises TooMany beyond `most` states.
    """
    searching = _Searching(model, most, ways=(array("L"), array("L")))
    found = searching.run()
    if found.counterexample is not None:
        return found
    hopeless = searching.first_without(model.hoped)
    if hopeless is None:
        return found
    told = searching.told(hopeless, "from here on there is no way back to what must stay possible")
    return Search(found.states, found.steps, found.depth, found.seconds, told)


class _Searching(Generic[State]):
    """One search: what it has seen, and from where."""

    def __init__(
        self, model: Model[State], most: int, ways: tuple[array[int], array[int]] | None = None
    ) -> None:
        self.model = model
        self.most = most
        self.came: dict[State, State | None] = {}
        """Every state that was seen, in order, and the one before it on a shortest way to it."""
        self.ways = ways
        """All steps, as numbers of states in the order of `came`, where they are asked for."""

    def run(self) -> Search:
        began = time.perf_counter()
        model, came = self.model, self.came
        start = model.same(model.start())
        came[start] = None
        steps, depth = 0, 0
        wrong = model.fault(start)
        found = None if wrong is None else self.told(start, wrong)
        front = [start]
        while front and found is None:
            new: list[State] = []
            for state in front:
                for _, after in model.steps(state):
                    steps += 1
                    after = model.same(after)
                    if after in came:
                        continue
                    came[after] = state
                    new.append(after)
                    wrong = model.fault(after)
                    if wrong is not None:
                        found = self.told(after, wrong)
                        break
                if found is not None:
                    break
            if len(came) > self.most:
                raise TooMany(f"more than {self.most} states")
            depth += bool(new)
            front = new
        return Search(len(came), steps, depth, time.perf_counter() - began, found)

    def first_without(self, hoped: object) -> State | None:
        raise NotImplementedError

    def told(self, last: State, fault: str) -> Counterexample:
        """The way to `last`, told with the states as they come, not with those that stand for them."""
        way: list[State] = []
        state: State | None = last
        while state is not None:
            way.append(state)
            state = self.came[state]
        model, sentences, here = self.model, [], self.model.start()
        for target in reversed(way[:-1]):
            for sentence, after in model.steps(here):
                if model.same(after) == target:
                    sentences.append(sentence)
                    here = after
                    break
            else:
                raise AssertionError("`same` confuses states that differ")
        return Counterexample(tuple(sentences), fault)
