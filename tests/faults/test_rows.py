"""Every row of the fault suite, a few times under a small load: `make faults` does it at length."""

import pytest

from tests.faults.campaign import attempt
from tests.faults.catalogue import NAMES, Row, everything, modules

# Far from the seeds of campaigns, which begin at 1, so that these runs are not among theirs.
_FIRST_SEED = 1_000_001

CASES = [
    pytest.param(row, variant, _FIRST_SEED + number, id=f"{row.name} {variant} {number}")
    for row in everything()
    for variant in row.tested
    for number in range(row.quick)
]


def test_every_row_is_written() -> None:
    missing = [name for name in NAMES if name not in modules()]
    assert not missing, f"no module in tests/faults/rows for: {', '.join(missing)}"


def test_every_module_is_a_row_of_the_table() -> None:
    strange = sorted(modules() - set(NAMES))
    assert not strange, f"no row of the table: {', '.join(strange)}"


@pytest.mark.parametrize("row", everything(), ids=lambda row: row.name)
def test_a_row_says_what_it_does(row: Row) -> None:
    assert row.title
    assert row.expected
    assert not {"|", "\n"} & {*row.title, *row.expected, *row.asked}, "they are cells of a table"
    assert row.count >= row.quick >= 1
    assert row.variants
    assert len(set(row.variants)) == len(row.variants)
    assert row.tested
    assert set(row.tested) <= set(row.variants)


@pytest.mark.parametrize(("row", "variant", "seed"), CASES)
async def test_a_row_holds(row: Row, variant: str, seed: int) -> None:
    ended = await attempt(row, variant, seed, quick=True)
    assert ended.ok, f"{ended.message}\nkept in {ended.kept}"
