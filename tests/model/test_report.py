"""The page about the searches says what they find."""

from tests.model.catalogue import GROUNDS
from tests.model.holes import HOLES
from tests.model.report import PAGE, rendered


def test_the_page_is_up_to_date() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written == rendered(), "python -m tests.model.report writes it anew"


def test_every_switch_of_every_model_is_taken_out_once() -> None:
    switched = {name for hole in HOLES for name in hole.out}
    for hole in HOLES:
        assert set(hole.out) <= set(GROUNDS[hole.ground].rules._fields), hole.name
        assert not GROUNDS[hole.ground].far
    for ground in GROUNDS.values():
        assert switched >= set(ground.rules._fields)
