"""Every promise of docs/guarantees.md names what shows it, and that is there."""

import ast
import re
from functools import cache

import pytest

from settlement.incidents import KINDS
from settlement.rebuild import UNSETTLED_MAX
from tests.faults.catalogue import NAMES
from tests.sources import ROOT

PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")

NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))
FAULTS = sorted(set(re.findall(r"`make faults ROW=([\w-]+)`", PAGE)) - {"name"})


@cache
def functions_in(path: str) -> set[str]:
    """The names of a file's functions."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, functions)}


def promises() -> list[list[str]]:
    """The rows of those tables whose last column says what shows them."""
    found: list[list[str]] = []
    shown = False
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if not line.startswith("|"):
            shown = False
        elif cells[-1] == "shown by":
            shown = True
        elif shown and not line.startswith("|-"):
            found.append(cells)
    return found


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_test_that_is_named_is_there(path: str, name: str) -> None:
    assert name.startswith("test_")
    assert name in functions_in(path)


@pytest.mark.parametrize("row", promises(), ids=lambda row: row[0][:40])
def test_a_promise_is_shown_by_something(row: list[str]) -> None:
    shown = re.sub(r"`(?:tests/[\w/]+\.py::\w+|make faults ROW=[\w-]+)`,? ?", "", row[-1])
    assert row[-1]
    assert shown == "", "what shows a promise is a test or a row of the fault suite"


def test_every_fault_that_is_done_is_there_and_no_other() -> None:
    assert set(FAULTS) == set(NAMES)


def test_every_kind_of_incident_is_there_and_no_other() -> None:
    told = {
        word for cells in promises() for word in re.findall(r"`([a-z_]+)`", " ".join(cells[1:-1]))
    }
    assert KINDS.keys() <= told
    said = {word for row in promises() for word in re.findall(r"incident `(\w+)`", " ".join(row))}
    assert said <= KINDS.keys()


def test_every_refusal_that_is_named_is_one() -> None:
    named = set(re.findall(r"503 `(\w+)`", PAGE))
    assert len(named) > 4
    assert [name for name in named if f"| `{name}` |" not in API] == []


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"never more than {UNSETTLED_MAX:,} entries a shard" in PAGE
