"""Runs of the fault suite, one after the other, each written down before the next begins.

A campaign can be stopped at any moment and goes on where it was: what ran is in the record, a file
of one line of JSON for each run. A run that was interrupted is not in it. A failed run stays in it
for ever, also when its seed passes later.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import math
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from holdfast.staging import remove_data
from tests.faults.catalogue import Figures, Row, Run
from tests.sources import ROOT

RECORD = ROOT / "docs" / "fault-runs.jsonl"

# A variant that failed so often in one call is broken, and each failure keeps some 60 MB of data.
_FAILURES_MAX = 3
# Of a message: a verdict lists what it found, the whole of it is in the directory that is kept.
_MESSAGE_MAX = 600


@dataclass(frozen=True, slots=True)
class Record:
    """One run that ended, as its line in the record has it."""

    row: str
    variant: str
    seed: int
    commit: str
    """Of the tree that was tested; a `+` marks one with changes that were not committed."""
    ok: bool
    duration_s: float
    times: int = 1
    """How often it did its fault."""
    figures: Figures = field(default_factory=dict)
    message: str = ""
    """Why it failed."""
    kept: str = ""
    """Where its data, logs and history are, if it failed."""

    @property
    def line(self) -> str:
        """Its line in the record, without what is empty."""
        empty = {"times": 1, "figures": {}, "message": "", "kept": ""}
        told = {name: it for name, it in asdict(self).items() if it != empty.get(name)}
        return json.dumps(told, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one call is asked to do with each variant."""

    count: int | None = None
    """Runs at most; None: until the fault was done as often as the row says, or one run where a
    seed is given."""
    seed: int | None = None
    """The first seed; then it is run whether or not it ran before. None: the next unused ones."""

    def seeds(self, row: Row, variant: str, records: Iterable[Record]) -> list[int]:
        """What is to run now, in order."""
        if self.seed is not None:
            return list(range(self.seed, self.seed + (self.count or 1)))
        used = {r.seed: r.times for r in records if (r.row, r.variant) == (row.name, variant)}
        missing = math.ceil(max(row.count - sum(used.values()), 0) / row.times)
        first = max(used, default=0) + 1
        wanted = missing if self.count is None else min(missing, self.count)
        return list(range(first, first + wanted))


def load(path: Path = RECORD) -> list[Record]:
    """All runs that ended, in the order in which they did. A torn last line is not one of them."""
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [Record(**json.loads(line)) for line in whole.splitlines()]


def append(record: Record, path: Path = RECORD) -> None:
    """Write a run down, so that it is there whatever happens next. Several calls may run at once.

    What a killed call left of its last line goes.
    """
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(record.line.encode() + b"\n")


def commit() -> str:
    """The commit of this tree, with a `+` where the tree has more than it; `unknown` without git.

    What the campaign itself writes is not more.
    """
    try:
        name = _git("rev-parse", "--short=10", "HEAD")
        changes = _git("status", "--porcelain", "--", ".", ":!docs/fault-r*")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}+" if changes else name


def _git(*words: str) -> str:
    done = subprocess.run(("git", *words), cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


async def attempt(
    row: Row, variant: str, seed: int, *, quick: bool = False, tree: str = ""
) -> Record:
    """One run. A failure is told by the record; its directory is kept. Raises CancelledError only.

    `tree` is the commit to be written down.
    """
    directory = _new_directory(row)
    times = 1 if quick else row.times
    run = Run(row.name, variant, seed, directory, quick, times)
    began = time.monotonic()
    figures: Figures = {}
    message = ""
    limit = asyncio.timeout(row.limit_s)
    try:
        async with limit:
            figures = await row.run(run)
        remove_data(directory)  # refused while a server runs on it: a run leaves none behind
    except Exception as error:
        message = f"no end after {row.limit_s:g} s" if limit.expired() else _message(error)
        told = "".join(traceback.format_exception(error))
        (directory / "failure.txt").write_text(told, encoding="utf-8")
    except BaseException:
        remove_data(directory)  # interrupted: nothing is known
        raise
    duration_s = round(time.monotonic() - began, 1)
    if message:
        kept = str(directory)
        return Record(row.name, variant, seed, tree, False, duration_s, 1, {}, message, kept)
    return Record(row.name, variant, seed, tree, True, duration_s, times, figures)


def _new_directory(row: Row) -> Path:
    directory = Path(tempfile.mkdtemp(prefix=f"hf-{row.name}-"))
    directory.chmod(0o711)  # Postgres, as `nobody`, passes through
    return directory


def _message(error: BaseException) -> str:
    """What went wrong, in a few lines: of a group, what its first member says. Paths of this tree
    begin at its root, for the record is read elsewhere."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    kind = type(error).__name__
    said = str(error).strip().replace(f"{ROOT}/", "")[:_MESSAGE_MAX]
    if not said:
        return kind
    return said if isinstance(error, AssertionError) else f"{kind}: {said}"


@dataclass(slots=True)
class Campaign:
    """One call of `python -m tests.faults`."""

    rows: tuple[Row, ...]
    plan: Plan
    record: Path = RECORD
    only: str | None = None
    """The one variant that is asked for; None: all."""
    written: Callable[[], None] = lambda: None
    """Called whenever a run was written down."""
    failed: list[Record] = field(default_factory=list)

    async def run(self) -> int:
        """Go round the variants, a run of each in turn, until nothing is asked for any more.

        Answers the number of runs. What failed is in `failed`.
        """
        tree, done = commit(), 0
        for row, variant, seed in self._turns():
            failures = [r for r in self.failed if (r.row, r.variant) == (row.name, variant)]
            if len(failures) >= _FAILURES_MAX:
                continue
            ended = await attempt(row, variant, seed, tree=tree)
            append(ended, self.record)
            self.written()
            done += 1
            if not ended.ok:
                self.failed.append(ended)
            _say(ended)
        return done

    def _turns(self) -> Iterator[tuple[Row, str, int]]:
        records = load(self.record)
        queues = [
            (row, variant, self.plan.seeds(row, variant, records))
            for row in self.rows
            for variant in row.variants
            if self.only in (None, variant)
        ]
        for turn in range(max((len(seeds) for _, _, seeds in queues), default=0)):
            for row, variant, seeds in queues:
                if turn < len(seeds):
                    yield row, variant, seeds[turn]


def _say(record: Record) -> None:
    name = f"{record.row}/{record.variant}" if record.variant else record.row
    figures = " ".join(f"{figure}={value}" for figure, value in record.figures.items())
    end = figures if record.ok else f"FAILED, kept in {record.kept}: {record.message}"
    sys.stdout.write(f"{name} seed {record.seed}: {record.duration_s} s {end}\n")
    sys.stdout.flush()
