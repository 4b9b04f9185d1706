"""Clock, file, nodes and poison, searched: right by all rules, wrong without each of them."""

import pytest

from tests.model.catalogue import SMALL, Hole
from tests.model.searches import assert_holds, assert_shows, grounds_of, holes_of


@pytest.mark.parametrize("name", grounds_of(SMALL))
def test_nothing_goes_wrong_by_the_rules(name: str) -> None:
    assert_holds(name, more_than=90)


@pytest.mark.parametrize("hole", holes_of(SMALL), ids=lambda hole: hole.name)
def test_a_rule_that_is_taken_out_is_missed(hole: Hole) -> None:
    assert_shows(hole)
