"""Searches every state of a model, breadth first: it tells a shortest way to what goes wrong.

A model says where it begins, which steps a state allows, and what is wrong with a state. A state is
a tuple of numbers and tuples (named ones, for the reader) and is never changed. A step is a
sentence and the state that it leads to. The search ends when no step leads to a state that was not
seen before: then "nothing goes wrong" is said of every order in which the steps can happen, as far
as the bounds of the model reach. Or it ends with the first state that is wrong.

`same` maps states that nobody can tell apart to one of them (generations under other numbers, two
workers that changed places). Whoever writes one says there why every step and every judgement
commutes with it; and each counterexample is told without it, which fails where it did not.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

State = TypeVar("State", bound=Hashable)

# Below 1 KB a state: a search that needs more memory than a laptop has needs a smaller model.
MOST_STATES = 5_000_000


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
    """A model that also says what must stay possible, whatever has happened."""

    hopeless: str
    """What it is to have no such hope any more, in a sentence."""

    def hoped(self, state: State) -> bool:
        """Whether what is hoped for has come about in this state."""
        ...


class TooMany(Exception):
    """The search was given up: there are more states than it was told to look at."""


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A shortest way to a state that is wrong."""

    steps: tuple[str, ...]
    fault: str

    def __len__(self) -> int:
        return len(self.steps)

    def __str__(self) -> str:
        lines = [f"{number:3}. {step}" for number, step in enumerate(self.steps, start=1)]
        return "\n".join([*lines, f"  => {self.fault}"])


@dataclass(frozen=True, slots=True)
class Search:
    """What a search looked at, and what it found: nothing means that it was complete."""

    states: int
    steps: int
    depth: int
    """Steps from the start to the states that are farthest away, of those looked at."""
    seconds: float
    counterexample: Counterexample | None


def search(model: Model[State], most: int = MOST_STATES) -> Search:
    """Look at every state until one is wrong. Raises TooMany beyond `most` of them."""
    return _Searching(model, most).run()


def search_hope(model: Hopeful[State], most: int = MOST_STATES) -> Search:
    """Look at every state, and then for one from which what is hoped for cannot be reached.

    Takes twice the time of `search`. Raises TooMany beyond `most` states.
    """
    searching = _Searching(model, most)
    found = searching.run()
    if found.counterexample is None:
        hopeless = _hopeless(model, list(searching.came))
        if hopeless is not None:
            told = searching.told(hopeless, model.hopeless)
            return replace(found, counterexample=told)
    return found


class _Searching(Generic[State]):
    """One search: the states it has seen, and where they came from."""

    def __init__(self, model: Model[State], most: int) -> None:
        self.model = model
        self.most = most
        self.came: dict[State, State | None] = {}
        """Every state seen, nearest first, and the one before it on a shortest way to it."""

    def run(self) -> Search:
        began = time.perf_counter()
        model, came = self.model, self.came
        start = model.same(model.start())
        came[start] = None
        steps, depth, front = 0, 0, [start]
        wrong = model.fault(start)
        found = None if wrong is None else self.told(start, wrong)
        while front and found is None:
            new: list[State] = []
            for state in front:
                for _, then in model.steps(state):
                    steps += 1
                    after = model.same(then)
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
                raise TooMany(f"there are more than {self.most} states")
            front = new
            depth += bool(new)
        return Search(len(came), steps, depth, time.perf_counter() - began, found)

    def told(self, last: State, fault: str) -> Counterexample:
        """The way to `last`, in the states as they come, not in those that stand for them."""
        way: list[State] = []
        state: State | None = last
        while state is not None:
            way.append(state)
            state = self.came[state]
        model, here, sentences = self.model, self.model.start(), []
        for target in reversed(way[:-1]):
            for sentence, after in model.steps(here):
                if model.same(after) == target:
                    sentences.append(sentence)
                    here = after
                    break
            else:
                raise AssertionError("`same` takes states for one that differ")
        return Counterexample(tuple(sentences), fault)


def _hopeless(model: Hopeful[State], states: list[State]) -> State | None:
    """The first state from which no way leads to a hoped one; None if there is none."""
    number = {state: i for i, state in enumerate(states)}
    sources: list[list[int]] = [[] for _ in states]
    for i, state in enumerate(states):
        for _, then in model.steps(state):
            sources[number[model.same(then)]].append(i)
    waiting = [i for i, state in enumerate(states) if model.hoped(state)]
    saved = set(waiting)
    while waiting:
        for source in sources[waiting.pop()]:
            if source not in saved:
                saved.add(source)
                waiting.append(source)
    return next((state for i, state in enumerate(states) if i not in saved), None)
