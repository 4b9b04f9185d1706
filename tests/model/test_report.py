"""The page about the searches is whole; that its figures are found, each search says itself."""

from tests.model.catalogue import GROUNDS, Hole
from tests.model.holes import HOLES
from tests.model.report import PAGE, Row, rendered


def test_the_page_has_what_is_searched_and_no_more() -> None:
    written = PAGE.read_text(encoding="utf-8")
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in written.splitlines()
        if line.startswith("| ")
    ]

    def of_ground(name: str) -> Row:
        family, about = GROUNDS[name].family, GROUNDS[name].about
        return next(row for row in rows if row[:2] == (family, about))

    def of_hole(hole: Hole) -> Row:
        return next(row for row in rows if row[:2] == (hole.rule, hole.taken_out))

    assert written == rendered(of_ground, of_hole), "python -m tests.model.report writes it anew"


def test_every_switch_of_every_model_is_taken_out_once() -> None:
    switched = {name for hole in HOLES for name in hole.out}
    for hole in HOLES:
        assert set(hole.out) <= set(GROUNDS[hole.ground].rules._fields), hole.name
        assert not GROUNDS[hole.ground].far
    for ground in GROUNDS.values():
        assert switched >= set(ground.rules._fields)
