"""The tables are the whole of it: every event and metric in the code is there, and used."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from holdfast import telemetry
from holdfast.link import Traffic
from holdfast.telemetry import EVENTS, METRICS, Sampler, Telemetry, configure_logs, log

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for folder in ("src/holdfast", "settlement")
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "telemetry.py"
]
TOKEN = "hf_abcdefghijkl_" + "s" * 43


def named(pattern: str) -> set[str]:
    return {name for path in SOURCES for name in re.findall(pattern, path.read_text())}


def test_every_event_is_in_the_table_and_logged_somewhere() -> None:
    assert named(r"\blog\(\s*\"([a-z_]+)\"") == set(EVENTS)


def test_every_metric_of_the_code_is_in_the_table() -> None:
    in_code = named(r"\"(holdfast_[a-z_]+_(?:total|seconds|entries|open|pending|dead|recent))\"")
    assert in_code
    assert in_code <= set(METRICS)
    ours = {"holdfast_call_seconds", *(name for name in METRICS if "_wire_" in name)}
    assert set(METRICS) == in_code | ours


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_metric_is_named_by_what_it_counts(name: str) -> None:
    metric = METRICS[name]
    assert name.endswith("_total") is (metric.kind == "counter")
    assert metric.meaning.endswith(".")
    assert not {"account", "hold", "member", "key"} & set(metric.labels)


# ── logs ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The log lines since it was last asked, parsed."""
    saved = structlog.get_config()
    configure_logs("info")
    yield lambda: [orjson.loads(line) for line in capsys.readouterr().err.splitlines()]
    structlog.configure(**saved)


def test_a_line_is_json_with_its_severity_and_time(lines: Any) -> None:
    log("call_unavailable", store="redis")
    [line] = lines()
    assert (line["event"], line["level"], line["store"]) == ("call_unavailable", "warning", "redis")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line["timestamp"])


def test_an_event_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(KeyError):
        log("something_happened")


def test_no_secret_and_no_balance_reaches_a_log(lines: Any) -> None:
    try:
        raise ValueError(f"bad token {TOKEN} for redis://u:pass@host/0")
    except ValueError as error:
        log(
            "call_broke",
            detail=f"Bearer {TOKEN}",
            password="hunter2",
            account={"available": 123456, "plan": "pro"},
            urls=["postgresql://u:hunter2@host/db"],
            exc_info=error,
        )
    [line] = lines()
    text = orjson.dumps(line).decode()
    for secret in ("s" * 43, "hunter2", "u:pass", "123456"):
        assert secret not in text
    assert line["account"] == {"available": "***", "plan": "pro"}
    assert "ValueError" in line["exception"]


def test_a_sampler_keeps_back_what_comes_too_soon(lines: Any) -> None:
    times = iter([100.0, 100.5, 100.9, 100.9, 101.0, 102.5])
    sampler = Sampler(interval_s=1.0, clock=lambda: next(times))
    for store in ("redis", "redis", "redis", "postgres"):
        sampler.log("call_unavailable", store, store=store)
    assert [(line["store"], line["skipped"]) for line in lines()] == [("redis", 0), ("postgres", 0)]
    for _ in range(2):
        sampler.log("call_unavailable", "redis", store="redis")
    assert [line["skipped"] for line in lines()] == [2, 0]


def test_a_log_that_cannot_be_written_breaks_nothing(
    lines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    log("call_unavailable", store="redis")


# ── metrics ──────────────────────────────────────────────────────────────────────────────────────


def samples(text: bytes) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_calls_are_timed_by_call_and_result() -> None:
    metrics = Telemetry(None)
    timer = metrics.timer("reserve")
    for seconds in (0.001, 0.003):
        timer.observe("ok", seconds)
    timer.observe("insufficient_credits", 0.001)
    metrics.timer("commit").observe("replay", 0.001)

    found = samples(metrics.exposition()[0])

    assert found["holdfast_call_seconds_count", ("reserve", "ok")] == 2
    assert found["holdfast_call_seconds_sum", ("reserve", "ok")] == pytest.approx(0.004)
    assert found["holdfast_call_seconds_count", ("reserve", "insufficient_credits")] == 1
    assert found["holdfast_call_seconds_count", ("commit", "replay")] == 1


def test_traffic_is_counted_once() -> None:
    metrics, traffic = Telemetry(None), Traffic()
    for _ in range(3):
        traffic.sent += 10
        traffic.bytes_in += 7
        metrics.count_traffic(traffic)
        metrics.count_traffic(traffic)
    found = samples(metrics.exposition()[0])
    assert found["holdfast_wire_sent_total", ()] == 30
    assert found["holdfast_wire_bytes_in_total", ()] == 21


def test_gauges_are_read_when_they_are_asked_for() -> None:
    metrics = Telemetry(None)
    for is_open in (1.0, 0.0):
        text, _ = metrics.exposition([("holdfast_shard_open", ("3",), is_open)])
        assert samples(text)["holdfast_shard_open", ("3",)] == is_open


WORKER = """
import sys
from pathlib import Path
from holdfast.telemetry import Telemetry
metrics = Telemetry(Path(sys.argv[1]))
metrics.timer("reserve").observe("ok", 0.001)
sys.stdout.buffer.write(metrics.exposition([("holdfast_shard_open", ("0",), 1.0)])[0])
"""


def worker(directory: Path) -> bytes:
    """What one API process that served one call tells about all of them."""
    return subprocess.run(
        [sys.executable, "-c", WORKER, str(directory)], check=True, capture_output=True, timeout=60
    ).stdout


def test_any_worker_answers_for_all_even_for_those_that_ended(tmp_path: Path) -> None:
    directory = tmp_path / "metrics"
    for calls in (1, 2, 3):
        found = samples(worker(directory))
        assert found["holdfast_call_seconds_count", ("reserve", "ok")] == calls
        assert found["holdfast_shard_open", ("0",)] == 1


def test_only_so_many_files_of_ended_workers_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "_MAX_DEAD_FILES", 3)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    old = [tmp_path / f"counter_{ended.pid}0{i}.db" for i in range(5)]  # no such processes
    for age_s, path in enumerate(reversed(old)):
        path.touch()
        os.utime(path, (1_000_000 - age_s, 1_000_000 - age_s))
    ours = tmp_path / f"counter_{os.getpid()}.db"
    ours.touch()
    os.utime(ours, (1, 1))

    telemetry._remove_old_files(tmp_path)

    assert sorted(tmp_path.iterdir()) == sorted([*old[2:], ours])
