"""Settle, fence and rebuild, searched: right by all rules, and wrong without each of them."""

import pytest

from tests.model.catalogue import PROTOCOL, Hole
from tests.model.searches import assert_holds, assert_shows, grounds_of, holes_of


@pytest.mark.parametrize("name", grounds_of(PROTOCOL))
def test_nothing_goes_wrong_by_the_rules(name: str) -> None:
    assert_holds(name, more_than=2000)


@pytest.mark.parametrize("hole", holes_of(PROTOCOL), ids=lambda hole: hole.name)
def test_a_rule_that_is_taken_out_is_missed(hole: Hole) -> None:
    assert_shows(hole)
