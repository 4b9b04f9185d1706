"""Campaigns are resumed, every run is written down with its seed, and the report is what was."""

import asyncio
import json
import random
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import report
from tests.faults.__main__ import main
from tests.faults.campaign import (
    Campaign,
    Plan,
    Record,
    append,
    attempt,
    commit,
    load,
)
from tests.faults.catalogue import Figures, Row, Run
from tests.sources import ROOT


class Script:
    """A row's run that notes what it was given, and fails for some seeds."""

    def __init__(self, *bad: int) -> None:
        self.bad = bad
        self.runs: list[Run] = []

    async def __call__(self, run: Run) -> Figures:
        self.runs.append(run)
        run.history.write_text("what happened")
        assert run.seed not in self.bad, "an entry is there\ntwice | at least"
        return {"lost": run.seed % 3, "closed_ms": run.seed + 0.5, "by": "lease"}

    @property
    def seeds(self) -> list[tuple[str, int]]:
        return [(run.variant, run.seed) for run in self.runs]


def row(script: Script, *, name: str = "oom", count: int = 3, variants: tuple[str, ...]) -> Row:
    return Row(name, "memory is full", "closed", script, count, variants=variants)


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories that are kept go with the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "runs.jsonl"


async def go(rows: tuple[Row, ...], record: Path, plan: Plan | None = None) -> Campaign:
    campaign = Campaign(rows, plan or Plan(), record)
    await campaign.run()
    return campaign


# ── what is run ──────────────────────────────────────────────────────────────────────────────────


async def test_a_campaign_goes_round_until_each_variant_has_its_count(record: Path) -> None:
    script = Script()
    await go((row(script, count=2, variants=("stop", "kill")),), record)
    assert script.seeds == [("stop", 1), ("kill", 1), ("stop", 2), ("kill", 2)]
    assert [(r.variant, r.seed, r.ok) for r in load(record)] == [
        (variant, seed, True) for variant, seed in script.seeds
    ]


async def test_a_second_call_goes_on_where_the_first_was_stopped(record: Path) -> None:
    script = Script()
    rows = (row(script, count=5, variants=("",)),)
    await go(rows, record, Plan(count=2))
    await go(rows, record, Plan(count=2))
    await go(rows, record)
    await go(rows, record)
    assert [seed for _, seed in script.seeds] == [1, 2, 3, 4, 5]


async def test_a_given_seed_is_run_again_and_counts_once(record: Path) -> None:
    script = Script()
    rows = (row(script, count=3, variants=("",)),)
    await go(rows, record)
    await go(rows, record, Plan(seed=2))
    await go(rows, record, Plan(seed=7, count=2))
    await go(rows, record)
    assert [seed for _, seed in script.seeds] == [1, 2, 3, 2, 7, 8]


async def test_a_run_counts_for_as_often_as_it_did_the_fault(record: Path) -> None:
    script = Script(2)  # who knows how often a failed one did it
    rows = (replace(row(script, count=10, variants=("",)), times=3),)
    await go(rows, record)
    assert [(run.seed, run.times) for run in script.runs] == [(1, 3), (2, 3), (3, 3), (4, 3)]
    assert [each.times for each in load(record)] == [3, 1, 3, 3]
    assert "| 10 | 10 | 9 | 1 |" in report.rendered(rows, load(record))


async def test_rows_do_not_count_for_each_other(record: Path) -> None:
    first, second = Script(), Script()
    await go((row(first, name="oom", variants=("",)),), record)
    await go((row(second, name="clock", variants=("",)),), record)
    assert first.seeds == second.seeds


async def test_a_seed_repeats_what_a_run_chooses_and_other_names_choose_otherwise() -> None:
    def chosen(row: str, variant: str, seed: int) -> list[int]:
        run = Run(row, variant, seed, Path())
        return [run.rng.randrange(1000) for _ in range(8)]

    assert chosen("oom", "", 1) == chosen("oom", "", 1)
    others = [("oom", "", 2), ("clock", "", 1), ("oom", "x", 1)]
    assert all(chosen(*other) != chosen("oom", "", 1) for other in others)
    run = Run("oom", "", 1, Path())
    run.rng.random()
    assert random.Random("oom//1").random() != run.rng.random(), "a draw moves the generator on"


# ── how a run ends ───────────────────────────────────────────────────────────────────────────────


async def test_the_directory_of_a_good_run_is_removed() -> None:
    script = Script()
    ended = await attempt(row(script, variants=("",)), "", 1)
    assert ended.ok
    assert ended.kept == ""
    assert not script.runs[0].directory.exists()


async def test_a_failed_run_is_in_the_record_and_its_directory_is_kept(record: Path) -> None:
    script = Script(2)
    campaign = await go((row(script, variants=("",)),), record)
    (failed,) = [r for r in load(record) if not r.ok]
    assert campaign.failed == [failed]
    assert (failed.seed, failed.figures) == (2, {})
    assert "an entry is there" in failed.message
    kept = Path(failed.kept)
    assert kept == script.runs[1].directory
    assert (kept / "history.jsonl").read_text() == "what happened"
    assert "assert run.seed not in self.bad" in (kept / "failure.txt").read_text()


async def test_a_run_that_breaks_otherwise_failed_too() -> None:
    async def broken(run: Run) -> Figures:
        raise ExceptionGroup("a group", [OSError("no such port"), ValueError()])

    ended = await attempt(Row("oom", "", "", broken, 1), "", 1)
    assert not ended.ok
    assert ended.message == "OSError: no such port"


async def test_a_timeout_in_a_run_is_not_taken_for_its_end() -> None:
    async def impatient(run: Run) -> Figures:
        raise TimeoutError("no answer")

    ended = await attempt(Row("oom", "", "", impatient, 1), "", 1)
    assert ended.message == "TimeoutError: no answer"


async def test_a_message_names_no_place_on_this_machine() -> None:
    async def traced(run: Run) -> Figures:
        raise AssertionError(f'File "{ROOT}/settlement/worker.py", line 1')

    ended = await attempt(Row("oom", "", "", traced, 1), "", 1)
    assert ended.message == 'File "settlement/worker.py", line 1'


async def test_a_run_without_a_word_failed_with_a_message() -> None:
    async def silent(run: Run) -> Figures:
        raise AssertionError

    assert (await attempt(Row("oom", "", "", silent, 1), "", 1)).message == "AssertionError"


async def test_a_run_that_does_not_end_failed() -> None:
    async def endless(run: Run) -> Figures:
        await asyncio.Event().wait()
        return {}

    ended = await attempt(Row("oom", "", "", endless, 1, limit_s=0.01), "", 1)
    assert ended.message == "no end after 0.01 s"


async def test_a_variant_that_keeps_failing_is_left_and_the_others_go_on(record: Path) -> None:
    script = Script(*range(1, 100))
    good = Script()
    rows = (
        row(script, count=9, variants=("",)),
        row(good, name="clock", count=9, variants=("",)),
    )
    await go(rows, record)
    assert len(script.runs) == 3
    assert len(good.runs) == 9


async def test_an_interrupted_run_is_not_in_the_record_and_leaves_nothing(record: Path) -> None:
    script = Script()
    begun = asyncio.Event()

    async def endless(run: Run) -> Figures:
        await script(run)
        if run.seed == 2:
            begun.set()
            await asyncio.Event().wait()
        return {}

    campaign = asyncio.create_task(go((Row("oom", "", "", endless, 3),), record))
    await begun.wait()
    campaign.cancel()
    with pytest.raises(asyncio.CancelledError):
        await campaign
    assert [r.seed for r in load(record)] == [1]
    assert not script.runs[1].directory.exists()


# ── the record ───────────────────────────────────────────────────────────────────────────────────


def test_a_run_is_one_line_of_json_and_is_read_as_it_was(record: Path) -> None:
    runs = [
        Record("oom", "", 1, "abc", True, 1.5, 4, {"lost": 0, "by": "lease"}),
        Record("clock", "+1h", 2, "abc+", False, 0.5, 1, {}, "±1 h\nis off", "/tmp/x"),
    ]
    for each in runs:
        append(each, record)
    lines = record.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [1, 2]
    assert load(record) == runs


@pytest.mark.parametrize("torn", ['{"row": "oom", "var', '{"row"', "{"])
def test_a_torn_last_line_is_no_run_and_goes_with_the_next(record: Path, torn: str) -> None:
    whole = Record("oom", "", 1, "abc", True, 1.5)
    append(whole, record)
    with record.open("a", encoding="utf-8") as file:
        file.write(torn)
    assert load(record) == [whole]
    append(whole, record)
    assert load(record) == [whole, whole]


def test_no_record_is_no_run(record: Path) -> None:
    assert load(record) == []


def test_the_commit_is_gits() -> None:
    said = subprocess.run(
        ("git", "rev-parse", "HEAD"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    name = commit().removesuffix("+")
    if said.returncode == 0:
        assert len(name) >= 10
        assert said.stdout.startswith(name)
    else:  # a tree without its repository
        assert name == "unknown"


# ── the program ──────────────────────────────────────────────────────────────────────────────────


def call(tmp_path: Path, rows: tuple[Row, ...], *words: str) -> int:
    return main(words, rows, tmp_path / "page.md", tmp_path / "runs.jsonl")


def test_the_exit_code_says_whether_a_run_of_this_call_failed(tmp_path: Path) -> None:
    rows = (row(Script(2), count=3, variants=("",)),)
    assert call(tmp_path, rows, "--count", "1") == 0
    assert call(tmp_path, rows, "--count", "1") == 1
    assert call(tmp_path, rows, "--count", "1") == 0, "the failure was another call's"


def test_empty_variables_of_make_are_as_if_they_were_not_there(tmp_path: Path) -> None:
    script = Script()
    rows = (row(script, count=2, variants=("",)),)
    assert call(tmp_path, rows, "--row", "", "--count", "", "--seed", "") == 0
    assert len(script.runs) == 2


def test_one_variant_can_be_chosen(tmp_path: Path) -> None:
    script, other = Script(), Script()
    rows = (
        row(script, variants=("stop", "kill")),
        row(other, name="clock", variants=("",)),
    )
    assert call(tmp_path, rows, "--row", "oom/kill", "--seed", "17") == 0
    assert script.seeds == [("kill", 17)]
    assert other.runs == []


@pytest.mark.parametrize(
    "words", [("--row", "ooze"), ("--row", "oom/burn"), ("--count", "0"), ("--seed", "x")]
)
def test_wrong_words_run_nothing(tmp_path: Path, words: tuple[str, ...]) -> None:
    script = Script()
    with pytest.raises(SystemExit) as refused:
        call(tmp_path, (row(script, variants=("kill",)),), *words)
    assert refused.value.code == 2
    assert script.runs == []


def test_the_report_is_rendered_after_a_call_and_by_itself(tmp_path: Path) -> None:
    rows = (row(Script(1), variants=("",)),)
    call(tmp_path, rows, "--count", "2")
    page, runs = tmp_path / "page.md", load(tmp_path / "runs.jsonl")
    assert page.read_text(encoding="utf-8") == report.rendered(rows, runs)
    page.unlink()
    assert call(tmp_path, rows, "--report") == 0
    assert page.read_text(encoding="utf-8") == report.rendered(rows, runs)
    assert len(load(tmp_path / "runs.jsonl")) == 2


_STOPPED = """
import asyncio, sys
from pathlib import Path
from tests.faults.__main__ import main
from tests.faults.catalogue import Row

async def run(run):
    if run.seed == 2:
        print("begun", flush=True)
        await asyncio.Event().wait()
    return {}

folder = Path(sys.argv[1])
sys.exit(main((), (Row("oom", "", "", run, 3),), folder / "page.md", folder / "runs.jsonl"))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_call_that_is_told_to_stop_keeps_what_ran(tmp_path: Path, number: int) -> None:
    words = (sys.executable, "-c", _STOPPED, str(tmp_path))
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert any(line == "begun\n" for line in program.stdout)
        program.send_signal(number)
        assert program.wait(30) == 130
    assert [r.seed for r in load(tmp_path / "runs.jsonl")] == [1]
    assert "| 3 | 1 | 1 | 0 |" in (tmp_path / "page.md").read_text(encoding="utf-8")
