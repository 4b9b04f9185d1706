"""What the tests of all models say of a search."""

from __future__ import annotations

import sys

from tests.model.catalogue import GROUNDS, Hole, ground_search, hole_search
from tests.model.holes import HOLES
from tests.model.report import PAGE, Row, line, row_of_ground, row_of_hole


def grounds_of(family: str) -> list[str]:
    """The grounds of a family of models that every run of the tests searches."""
    return [name for name, ground in GROUNDS.items() if ground.family == family and not ground.far]


def holes_of(family: str) -> list[Hole]:
    """The rules of a family of models, each to be taken out."""
    return [hole for hole in HOLES if GROUNDS[hole.ground].family == family]


def assert_holds(name: str, more_than: int) -> None:
    """All states of a ground were looked at, and nothing is wrong with any."""
    found = ground_search(name)
    assert found.counterexample is None, f"{name}:\n{found.counterexample}"
    assert found.states > more_than
    _assert_published(row_of_ground(name))


def assert_shows(hole: Hole) -> None:
    """What a rule closes is open without it, and is what we think it is."""
    found = hole_search(hole)
    _assert_published(row_of_hole(hole))
    if not hole.fault:
        assert found.counterexample is None, f"{hole.name}:\n{found.counterexample}"
        assert found.states > 1000
        return
    assert found.counterexample is not None, f"{hole.name}: nothing, in {found.states} states"
    assert found.counterexample.fault == hole.fault
    sys.stdout.write(
        f"{hole.name}, in {len(found.counterexample)} steps:\n{found.counterexample}\n"
    )


def _assert_published(row: Row) -> None:
    """The page says what was found."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert line(row) in lines, "python -m tests.model.report writes it anew"
