"""Traces: what is read, what is refused and how it is named, what is drawn."""

from __future__ import annotations

import itertools
import math
import statistics
from pathlib import Path

import pytest

from holdfast import trace
from holdfast.trace import TraceError, TraceRow, read_trace, synthetic_trace

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
GOOD = "2023-11-16 18:15:46.6805900,374,44"


def _file(tmp_path: Path, *lines: str, end: str = "\r\n") -> Path:
    path = tmp_path / "trace.csv"
    path.write_bytes(end.join(lines).encode())
    return path


def test_a_file_as_azure_writes_it(tmp_path: Path) -> None:
    path = _file(tmp_path, HEADER, GOOD, "2023-11-16 18:15:50.9951690,396,109")

    read = read_trace(path)

    assert read.source == "trace.csv"
    # The seventh digit counts: 100 ns.
    assert read.rows == (TraceRow(0, 374, 44), TraceRow(4_314_579_000, 396, 109))


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_blank_lines_a_mark_and_more_columns_do_no_harm(tmp_path: Path, end: str) -> None:
    path = _file(
        tmp_path,
        "\ufeffRegion,GeneratedTokens,TIMESTAMP,ContextTokens",
        "",
        "west,5,2024-05-10 00:00:00.009930+00:00,7",
        'east,6,"2024-05-10T00:00:01Z",8',
        "",
        "",
        end=end,
    )
    assert read_trace(path).rows == (TraceRow(0, 7, 5), TraceRow(990_070_000, 8, 6))


def test_a_limit_ends_the_reading_before_what_is_bad(tmp_path: Path) -> None:
    path = _file(tmp_path, HEADER, GOOD, GOOD, "rubbish")
    assert len(read_trace(path, limit=2).rows) == 2


@pytest.mark.parametrize(
    ("row", "column", "why"),
    [
        ("2023-11-16,374,44", "TIMESTAMP", "not a UTC time"),
        ("2023-11-16 18:15:46.6805900+02:00,374,44", "TIMESTAMP", "not a UTC time"),
        ("2023-02-30 18:15:46.6805900,374,44", "TIMESTAMP", "is '2023-02-30"),
        ("2023-11-16 18:15:45.0000000,374,44", "TIMESTAMP", "earlier than the row before"),
        ("2023-11-16 18:15:47.0000000,,44", "ContextTokens", "is ''"),
        ("2023-11-16 18:15:47.0000000,12.5,44", "ContextTokens", "is '12.5'"),
        ("2023-11-16 18:15:47.0000000,٣,44", "ContextTokens", "not a whole number"),
        ("2023-11-16 18:15:47.0000000,374,-1", "GeneratedTokens", "is '-1'"),
        ("2023-11-16 18:15:47.0000000,374,10000001", "GeneratedTokens", "from 0 to 10,000,000"),
        ("2023-11-16 18:15:47.0000000,374", "GeneratedTokens", "2 cells where 3 belong"),
        ("2023-11-16 18:15:47.0000000,374,44,1", "GeneratedTokens", "4 cells where 3 belong"),
    ],
)
def test_a_bad_row_is_refused_with_its_line_and_column(
    tmp_path: Path, row: str, column: str, why: str
) -> None:
    path = _file(tmp_path, HEADER, GOOD, "", row)
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line 4: {column} ")
    assert why in message


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no rows"),
        (HEADER.encode(), "no rows"),
        (b"TIMESTAMP,ContextTokens\r\nx,1", "line 1: GeneratedTokens is missing"),
        (HEADER.encode() + b'\r\n"2023', "line 2: not CSV"),
        (HEADER.encode() + b"\r\n\xff\xfe,1,1", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=why):
        read_trace(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="No such file"):
        read_trace(tmp_path / "nowhere.csv")


def test_more_rows_than_memory_is_meant_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "MAX_ROWS", 2)
    path = _file(tmp_path, HEADER, GOOD, GOOD, GOOD)
    with pytest.raises(TraceError, match="line 4: more than 2 rows"):
        read_trace(path)
    assert len(read_trace(path, limit=2).rows) == 2


def test_a_seed_is_a_trace() -> None:
    assert synthetic_trace(500, seed=7) == synthetic_trace(500, seed=7)
    assert synthetic_trace(500, seed=7).rows != synthetic_trace(500, seed=8).rows
    # A longer one begins like a shorter one.
    assert synthetic_trace(500, seed=7).rows[:100] == synthetic_trace(100, seed=7).rows


def test_a_drawn_trace_is_like_the_real_one() -> None:
    rows = synthetic_trace(20_000, seed=1).rows
    context = [row.context_tokens for row in rows]
    generated = [row.generated_tokens for row in rows]

    # Within a twentieth of the lognormal medians exp(6.63) and exp(5.02).
    assert statistics.median(context) == pytest.approx(757, rel=0.05)
    assert statistics.median(generated) == pytest.approx(151, rel=0.05)
    assert min(context) >= 2
    assert max(context) <= 14_050
    assert min(generated) >= 7
    assert max(generated) <= 1_000

    gaps = [after.at_ns - before.at_ns for before, after in itertools.pairwise(rows)]
    assert min(gaps) >= 0
    # Poisson arrivals: the gaps' deviation is their mean, and e^-1 of them are above it.
    mean_ns = statistics.mean(gaps)
    assert mean_ns == pytest.approx(1e9 / 5.53, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(mean_ns, rel=0.05)
    share = sum(gap > mean_ns for gap in gaps) / len(gaps)
    assert share == pytest.approx(math.exp(-1), abs=0.02)


@pytest.mark.parametrize("rows", [0, -1, trace.MAX_ROWS + 1])
def test_a_drawn_trace_has_bounds(rows: int) -> None:
    with pytest.raises(ValueError, match="1 to 5,000,000 rows"):
        synthetic_trace(rows, seed=1)
