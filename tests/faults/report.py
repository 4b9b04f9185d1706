"""docs/fault-report.md, as the record of all runs has it."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from tests.faults.campaign import RECORD, Record, load
from tests.faults.catalogue import Row
from tests.sources import ROOT

PAGE = ROOT / "docs" / "fault-report.md"

_HEAD = """\
# The fault report

*Written by `make faults` from [fault-runs.jsonl](fault-runs.jsonl), which has every run with its
figures; a test compares the two.*

Each run starts a service of real programs (Valkey, Postgres, API, worker), puts it under load, and
does the fault to it. Then a checker resolves every call whose outcome was unknown, replays the
journal through a model of its own, and compares each answer that a caller got with it: nothing
twice, nothing lost, nothing out of order, no number missing; final balances in Redis, Postgres and
the model agree. `make test` runs each fault a few times under a smaller load; `make faults` adds
runs to this report until each row has as many as were asked for.

```
make faults                               # goes on where it was stopped
make faults ROW=oom COUNT=5               # five more of one row
make faults ROW=postgres/kill SEED=17     # one seed again
```

A seed repeats what a run chooses: the load, the moment and the kind of the fault. How the programs
take turns is the machine's, so a seed makes a failure likely, not certain. A run that failed stays
here for good, with the seed; *passed* counts what was done in seeds whose last run was good. A run
of some rows does its fault several times, one after the other.
"""


def rendered(rows: Sequence[Row], records: Sequence[Record]) -> str:
    """The page."""
    lines = [_HEAD, "## The rows", ""]
    lines += _table(
        ("row", "what is done", "expected", "asked", "done", "passed", "failures"),
        (cells for row in rows for cells in _summaries(row, records)),
    )
    for row in rows:
        lines += ["", *_section(row, records)]
    return "\n".join(lines) + "\n"


def write(rows: Sequence[Row], page: Path = PAGE, record: Path = RECORD) -> None:
    """Render the page anew; whoever reads it meanwhile sees the old one or the new one."""
    aside = page.with_suffix(f".{os.getpid()}")  # several calls may run at once
    aside.write_text(rendered(rows, load(record)), encoding="utf-8")
    os.replace(aside, page)


def _of(row: Row, variant: str, records: Iterable[Record]) -> list[Record]:
    return [record for record in records if (record.row, record.variant) == (row.name, variant)]


def _last(records: Iterable[Record]) -> dict[int, Record]:
    """The last run of each seed, by seed."""
    return dict(sorted({record.seed: record for record in records}.items()))


def _summaries(row: Row, records: Sequence[Record]) -> Iterable[tuple[str, ...]]:
    for variant in row.variants:
        ran = _of(row, variant, records)
        last = _last(ran).values()
        link = f"[{row.name}](#{row.name})"
        yield (
            f"{link} {variant}".strip(),
            row.title if variant == row.variants[0] else "",
            row.expected if variant == row.variants[0] else "",
            row.wanted,
            f"{sum(record.times for record in last):,}",
            f"{sum(record.times for record in last if record.ok):,}",
            f"{sum(not record.ok for record in ran):,}",
        )


def _section(row: Row, records: Sequence[Record]) -> list[str]:
    lines = [f"## {row.name}", ""]
    told = [(variant, _of(row, variant, records)) for variant in row.variants]
    if not any(ran for _, ran in told):
        return [*lines, "No run yet."]
    figures = [cells for variant, ran in told for cells in _figures(variant, ran)]
    if figures:
        lines += [*_table(("variant", "figure", "min", "median", "max", "runs"), figures), ""]
    seeds = ((variant or "all", *each) for variant, ran in told for each in _seeds(ran))
    lines += _table(("variant", "commit", "seeds"), seeds)
    failures = [record for _, ran in told for record in ran if not record.ok]
    if failures:
        lines += ["", "What failed:", "", *(_failure(record, records) for record in failures)]
    return lines


def _figures(variant: str, ran: Sequence[Record]) -> Iterable[tuple[str, ...]]:
    """A line a figure: its range where it is a number, else how often it had each value."""
    good = [record.figures for record in _last(ran).values() if record.ok]
    for name in dict.fromkeys(name for figures in good for name in figures):
        values = [figures[name] for figures in good if name in figures]
        numbers = [value for value in values if not isinstance(value, str)]
        count = f"{len(values):,}"
        if len(numbers) == len(values):
            spread = (min(numbers), statistics.median(numbers), max(numbers))
            yield variant or "all", f"`{name}`", *(_number(value) for value in spread), count
        else:
            words = [str(value) for value in values]
            often = ", ".join(f"{word} ({words.count(word)})" for word in sorted(set(words)))
            yield variant or "all", f"`{name}`", often, "", "", count


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def _seeds(ran: Sequence[Record]) -> Iterable[tuple[str, str]]:
    """The seeds that ran, a line for each commit, in the order of its first run."""
    for commit in dict.fromkeys(record.commit for record in ran):
        yield f"`{commit}`", spans({record.seed for record in ran if record.commit == commit})


def spans(seeds: Iterable[int]) -> str:
    """Numbers in order, with what follows upon another taken together: `1–3, 7`."""
    found = []
    # Numbers that follow upon each other are as far from their places as the first of them.
    for _, group in groupby(enumerate(sorted(seeds)), key=lambda pair: pair[1] - pair[0]):
        run = [seed for _, seed in group]
        found.append(f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}")
    return ", ".join(found)


def _failure(record: Record, records: Sequence[Record]) -> str:
    later = records[records.index(record) + 1 :]
    same = [r for r in later if (r.row, r.variant, r.seed) == (*_who(record), record.seed)]
    end = f" Good at `{same[-1].commit}`." if same and same[-1].ok else ""
    name = f"{record.variant}, seed {record.seed}" if record.variant else f"seed {record.seed}"
    said = " ".join(record.message.split()).replace("|", "\\|")
    return f"- {name} at `{record.commit}`: {said}{end}"


def _who(record: Record) -> tuple[str, str]:
    return record.row, record.variant


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    heads = tuple(heads)
    lines = [heads, ("---",) * len(heads), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
