"""The report says what was asked, done and found, and the published one is what the record says."""

import pytest

from tests.faults import report
from tests.faults.campaign import RECORD, Record, load
from tests.faults.catalogue import Figures, Row, Run, everything


async def nothing(run: Run) -> Figures:
    """A run, which none of these tests makes."""
    return {}


def row(*, count: int = 3, variants: tuple[str, ...]) -> Row:
    return Row("oom", "memory is full", "closed", nothing, count, variants=variants)


def ran(seed: int, *, ok: bool = True, commit: str = "abc", **figures: int | float | str) -> Record:
    return Record("oom", "kill", seed, commit, ok, 1.0, 1, figures, "" if ok else "two | effects")


def test_the_report_says_what_was_asked_done_and_passed() -> None:
    rows = (row(count=1200, variants=("stop", "kill")),)
    page = report.rendered(rows, [ran(1), ran(2, ok=False), ran(3)])
    assert "| [oom](#oom) stop | memory is full | closed | 1,200 | 0 | 0 | 0 |" in page
    assert "| [oom](#oom) kill |  |  | 1,200 | 3 | 2 | 1 |" in page


def test_what_the_runs_amount_to_is_said_too() -> None:
    asked = Row("oom", "", "", nothing, 20, asked="10,000 operations")
    assert "| 20 (10,000 operations) | 0 | 0 | 0 |" in report.rendered((asked,), [])


def test_a_failure_stays_in_the_report_when_its_seed_passes_later() -> None:
    rows = (row(variants=("kill",)),)
    page = report.rendered(rows, [ran(1), ran(2, ok=False), ran(2, commit="def")])
    assert "| 3 | 2 | 2 | 1 |" in page
    assert "- kill, seed 2 at `abc`: two \\| effects Good at `def`." in page


def test_figures_have_their_range() -> None:
    rows = (row(variants=("kill",)),)
    runs = [
        ran(1, closed_ms=1500.0, by="lease"),
        ran(2, closed_ms=1000.0, by="scripts"),
        ran(3, closed_ms=12000.5, by="lease"),
        ran(4, ok=False),
    ]
    page = report.rendered(rows, runs)
    assert "| kill | `closed_ms` | 1,000 | 1,500 | 12,000.5 | 3 |" in page
    assert "| kill | `by` | lease (2), scripts (1) |  |  | 3 |" in page


def test_every_seed_is_in_the_report_with_its_commit() -> None:
    rows = (row(variants=("kill",)),)
    runs = [ran(1), ran(2), ran(3, commit="def"), ran(7)]
    page = report.rendered(rows, runs)
    assert "| kill | `abc` | 1–2, 7 |" in page
    assert "| kill | `def` | 3 |" in page


@pytest.mark.parametrize(
    ("seeds", "text"),
    [((), ""), ((4,), "4"), ((1, 2), "1–2"), ((5, 1, 2, 3, 9, 8), "1–3, 5, 8–9")],
)
def test_seeds_in_a_row_are_taken_together(seeds: tuple[int, ...], text: str) -> None:
    assert report.spans(seeds) == text


def test_a_row_without_runs_says_so() -> None:
    assert "No run yet." in report.rendered((row(variants=("kill",)),), [])


def test_the_published_report_is_what_the_record_says() -> None:
    rows, records = everything(), load(RECORD)
    assert report.PAGE.read_text(encoding="utf-8") == report.rendered(rows, records), (
        "python -m tests.faults --report"
    )
    known = {(row.name, variant) for row in rows for variant in row.variants}
    assert {(r.row, r.variant) for r in records} <= known
