"""The search itself: it finds what is nearest, misses nothing, and notices where it is lied to."""

from collections.abc import Iterator

import pytest

from tests.model.checker import TooMany, search, search_hope


class Jugs:
    """Two jugs, of 3 and 5 pints, a tap and a drain: can one of them hold 4?"""

    hopeless = "the jugs can never both be empty again"

    def __init__(self, wrong: int | None = None) -> None:
        self.wrong = wrong

    def start(self) -> tuple[int, int]:
        return 0, 0

    def same(self, state: tuple[int, int]) -> tuple[int, int]:
        return state

    def fault(self, state: tuple[int, int]) -> str | None:
        return f"a jug holds {self.wrong}" if self.wrong in state else None

    def hoped(self, state: tuple[int, int]) -> bool:
        return state == (0, 0)

    def steps(self, state: tuple[int, int]) -> Iterator[tuple[str, tuple[int, int]]]:
        small, large = state
        yield "fill the small one", (3, large)
        yield "fill the large one", (small, 5)
        yield "empty the small one", (0, large)
        yield "empty the large one", (small, 0)
        poured = min(small, 5 - large)
        yield "pour the small one over", (small - poured, large + poured)
        poured = min(large, 3 - small)
        yield "pour the large one over", (small + poured, large - poured)


class Leaking(Jugs):
    """The same, but what was once full has a crack and is never empty again."""

    def steps(self, state: tuple[int, int]) -> Iterator[tuple[str, tuple[int, int]]]:
        for sentence, after in super().steps(state):
            if state != (3, 5) or after == (3, 5):
                yield sentence, after


class Confused(Jugs):
    """The same, by somebody who cannot tell the jugs apart, though they differ."""

    def same(self, state: tuple[int, int]) -> tuple[int, int]:
        return min(state), max(state)


def test_the_shortest_way_is_told() -> None:
    found = search(Jugs(wrong=4))
    assert found.counterexample is not None
    assert len(found.counterexample) == 6
    assert str(found.counterexample).splitlines() == [
        "  1. fill the large one",
        "  2. pour the large one over",
        "  3. empty the small one",
        "  4. pour the large one over",
        "  5. fill the large one",
        "  6. pour the large one over",
        "  => a jug holds 4",
    ]


def test_every_state_is_looked_at_once() -> None:
    found = search(Jugs())
    assert found.counterexample is None
    # Full or empty is one of them in every state that can come about.
    assert found.states == 16
    assert found.steps == 6 * 16


def test_what_is_wrong_at_the_start_is_found() -> None:
    found = search(Jugs(wrong=0))
    assert found.counterexample is not None
    assert found.counterexample.steps == ()


def test_states_without_hope_are_found() -> None:
    assert search_hope(Jugs()).counterexample is None
    found = search_hope(Leaking())
    assert found.counterexample is not None
    assert found.counterexample.steps == ("fill the small one", "fill the large one")
    assert found.counterexample.fault == Jugs.hopeless


def test_what_is_wrong_comes_before_what_is_beyond_hope() -> None:
    found = search_hope(Leaking(wrong=2))
    assert found.counterexample is not None
    assert found.counterexample.fault == "a jug holds 2"


def test_a_search_that_grows_too_large_is_given_up() -> None:
    with pytest.raises(TooMany, match="more than 10"):
        search(Jugs(), most=10)


def test_states_that_are_taken_for_one_and_differ_are_noticed() -> None:
    with pytest.raises(AssertionError, match="that differ"):
        search(Confused(wrong=1))
