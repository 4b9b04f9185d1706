"""Traces of LLM calls: read from a CSV file, or drawn from a seed.

A trace has the columns of the Azure LLM inference traces, TIMESTAMP, ContextTokens and
GeneratedTokens, one call a row in the order in which the calls came.
"""

from __future__ import annotations

import csv
import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from _csv import Reader

__all__ = [
    "COLUMNS",
    "MAX_ROWS",
    "MAX_TOKENS",
    "Trace",
    "TraceError",
    "TraceRow",
    "read_trace",
    "synthetic_trace",
]

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")

MAX_ROWS = 5_000_000
"""Rows of a trace. All are held in memory, about 120 bytes each: 600 MB at the bound."""

MAX_TOKENS = 10_000_000
"""Tokens of one side of one call: ten times the longest context windows there are."""

# Whole seconds, then up to nanoseconds; Azure writes 7 digits (100 ns), and no zone for UTC.
_TIMESTAMP = re.compile(
    r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|\+00:00)?", re.ASCII
)
_TOKENS = re.compile(r"\d{1,8}", re.ASCII)


class TraceError(ValueError):
    """A trace that cannot be used; the message names file, line and column."""


class TraceRow(NamedTuple):
    """One call: nanoseconds since the first one, tokens it was given, tokens it gave back."""

    at_ns: int
    context_tokens: int
    generated_tokens: int


@dataclass(frozen=True)
class Trace:
    """Calls in the order in which they came, and where they are from."""

    source: str
    rows: tuple[TraceRow, ...]


def read_trace(path: Path, *, limit: int | None = None) -> Trace:
    """Read the first `limit` rows (default: all) of a trace; blank lines are passed over.

    Raises TraceError for a file that cannot be read, that lacks a column, has no rows or more
    than MAX_ROWS, and for a row that cannot be taken at its word: refused rather than skipped,
    since a trace with holes in it is another load than the one it is named after.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = tuple(islice(_rows(str(path), csv.reader(file, strict=True)), limit))
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TraceError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    if not rows:
        raise TraceError(f"{path}: no rows")
    return Trace(source=path.name, rows=rows)


class _Lines:
    """Calls of one file: remembers what a later row is judged by."""

    def __init__(self, name: str, header: list[str]) -> None:
        self._name = name
        for column in COLUMNS:
            if column not in header:
                raise self.refusal(
                    1, column, f"is missing; the header is {','.join(header)[:80]!r}"
                )
        self._width = len(header)
        self._time, self._context, self._generated = (header.index(each) for each in COLUMNS)
        self._first_ns: int | None = None
        self._last_ns = 0

    def refusal(self, line: int, column: str, why: str) -> TraceError:
        return TraceError(f"{self._name}, line {line}: {column} {why}")

    def row(self, line: int, cells: list[str]) -> TraceRow:
        if len(cells) != self._width:
            short = COLUMNS[min(len(cells), len(COLUMNS) - 1)]
            raise self.refusal(line, short, f"{len(cells)} cells where {self._width} belong")
        return TraceRow(
            at_ns=self._at_ns(line, cells[self._time]),
            context_tokens=self._tokens(line, "ContextTokens", cells[self._context]),
            generated_tokens=self._tokens(line, "GeneratedTokens", cells[self._generated]),
        )

    def _at_ns(self, line: int, text: str) -> int:
        parts = _TIMESTAMP.fullmatch(text)
        if parts is None:
            why = f"is {text!r}, not a UTC time like 2023-11-16 18:15:46.6805900"
            raise self.refusal(line, "TIMESTAMP", why)
        try:
            whole = datetime.fromisoformat(parts[1]).replace(tzinfo=UTC)
        except ValueError as error:
            raise self.refusal(line, "TIMESTAMP", f"is {text!r}: {error}") from error
        at_ns = int(whole.timestamp()) * 1_000_000_000 + int((parts[2] or "").ljust(9, "0"))
        if self._first_ns is None:
            self._first_ns = self._last_ns = at_ns
        if at_ns < self._last_ns:
            raise self.refusal(line, "TIMESTAMP", f"is {text!r}, earlier than the row before")
        self._last_ns = at_ns
        return at_ns - self._first_ns

    def _tokens(self, line: int, column: str, text: str) -> int:
        if not _TOKENS.fullmatch(text) or int(text) > MAX_TOKENS:
            why = f"is {text!r}, not a whole number from 0 to {MAX_TOKENS:,}"
            raise self.refusal(line, column, why)
        return int(text)


def _rows(name: str, reader: Reader) -> Iterator[TraceRow]:
    lines: _Lines | None = None
    count = 0
    try:
        for cells in reader:
            number = reader.line_num
            if not cells:
                continue
            if lines is None:
                lines = _Lines(name, cells)
                continue
            count += 1
            if count > MAX_ROWS:
                raise TraceError(f"{name}, line {number}: more than {MAX_ROWS:,} rows; use a limit")
            yield lines.row(number, cells)
    except csv.Error as error:
        raise TraceError(f"{name}, line {reader.line_num}: not CSV: {error}") from error


# Fitted to the Azure conversation trace of November 2023 (19,366 calls in 58 minutes): the
# logarithms' mean and deviation, and the range. Real counts clump more; the tails are alike.
_CONTEXT = (6.63, 0.985, 2, 14_050)
_GENERATED = (5.02, 0.859, 7, 1_000)
_CALLS_PER_SECOND = 5.53


def synthetic_trace(rows: int, *, seed: int) -> Trace:
    """Draw a trace: lognormal token counts, Poisson arrivals. One seed, one trace.

    Raises ValueError for fewer than 1 or more than MAX_ROWS rows.
    """
    if not 0 < rows <= MAX_ROWS:
        raise ValueError(f"a synthetic trace has 1 to {MAX_ROWS:,} rows, not {rows:,}")
    draw = random.Random(f"trace {seed}")
    return Trace(source=f"synthetic, seed {seed}", rows=tuple(islice(_drawn(draw), rows)))


def _drawn(draw: random.Random) -> Iterator[TraceRow]:
    at_ns = 0
    while True:
        yield TraceRow(at_ns, _lognormal(draw, *_CONTEXT), _lognormal(draw, *_GENERATED))
        at_ns += round(draw.expovariate(_CALLS_PER_SECOND) * 1e9)


def _lognormal(draw: random.Random, mean: float, deviation: float, low: int, high: int) -> int:
    return max(low, min(high, math.floor(draw.lognormvariate(mean, deviation))))
