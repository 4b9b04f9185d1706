"""The mix of calls of benchmarks, and the load generator that makes them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict

import pytest
from scripted_service import Asked, Reply, hold_answer, problem, running_service

from holdfast.bench import drive
from holdfast.bench_mix import Mix, cost_at, mixed_calls
from holdfast.latency import percentile


@pytest.mark.parametrize("seed", [1, 2])
def test_costs_have_the_published_percentiles(seed: int) -> None:
    costs = sorted(call.cost for call in mixed_calls(Mix(seed=seed)))
    for share, cost in ((0.5, 9), (0.9, 129), (0.99, 10_461), (0.999, 161_836)):
        assert percentile(costs, share) == pytest.approx(cost, rel=0.02)
    assert costs[0] >= 1


@pytest.mark.parametrize("seed", [1, 2])
def test_excess_over_the_estimate_is_as_published(seed: int) -> None:
    calls = mixed_calls(Mix(seed=seed))
    excess = sorted((call.cost - call.estimate for call in calls), reverse=True)
    over = [each for each in excess if each > 0]
    assert len(over) / len(calls) == pytest.approx(0.122, abs=0.0005)
    biggest = over[: round(len(calls) * 0.007)]
    assert sum(biggest) / sum(over) == pytest.approx(0.96, abs=0.005)
    assert min(call.estimate for call in calls) >= 1


def test_a_seed_is_a_mix() -> None:
    assert mixed_calls(Mix(seed=3)) == mixed_calls(Mix(seed=3))
    assert mixed_calls(Mix(seed=3)) != mixed_calls(Mix(seed=4))


def test_costs_between_the_points_grow() -> None:
    costs = [cost_at(step / 1_000) for step in range(1_001)]
    assert costs == sorted(costs)
    assert (costs[0], costs[500], costs[-1]) == (1, 9, 1_000_000)


@pytest.mark.parametrize("bad", [{"accounts": 0}, {"calls": 10}, {"grant": 10**16}])
def test_a_mix_has_bounds(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Mix(**bad)  # type: ignore[arg-type]


async def test_a_load_reserves_and_commits_by_turns() -> None:
    with running_service() as service:
        report = await drive(
            service.url,
            "hf_secret",
            connections=3,
            seconds=0.3,
            mix=Mix(accounts=5, calls=2_000),
            warm_up_s=0.1,
        )
        asked = service.asked
    ends = defaultdict(list)
    for each in asked:
        if "/holds" in each.path:
            name = each.path.split("/")[5] if each.path.endswith("/commit") else each.key
            ends[each.port, name].append(each)
    assert len({port for port, _ in ends}) == 3
    for calls in ends.values():
        reserve, *rest = calls
        assert reserve.path.endswith("/holds")
        assert reserve.body.keys() == {"amount", "ttl_seconds"}
        assert [each.path for each in rest] in ([], [f"{reserve.path}/{reserve.key}/commit"])
    # Every hold but the last of a connection was committed, within the warm-up or counted.
    assert sum(len(calls) == 1 for calls in ends.values()) <= 3
    assert abs(report.reserved - report.committed) <= 3
    assert report.requests == report.reserved + report.committed
    assert report.requests == report.reserve.count + report.commit.count
    assert report.requests > 0
    assert report.errors == {}
    opened = [each for each in asked if each.method == "PUT"]
    assert report.accounts == len(opened) == len({each.path for each in opened})


async def test_errors_are_counted_by_status_and_code_and_end_nothing() -> None:
    turn = 0

    def reply(asked: Asked) -> Reply | None:
        nonlocal turn
        if "/holds" not in asked.path:
            return None
        turn += 1
        match turn % 4:
            case 0:
                return problem(503, "overloaded", retryable=True)
            case 1:
                return Reply(201, hold_answer(), half=True)
            case 2:
                return Reply(404, "<h1>not here</h1>")
        return None

    with running_service() as service:
        service.on_ask = reply
        report = await drive(
            service.url,
            "hf_secret",
            connections=4,
            seconds=1.0,
            mix=Mix(accounts=5, calls=2_000),
            warm_up_s=0.0,
        )
    assert set(report.errors) == {"503 overloaded", "connection lost", "404 without a code"}
    assert report.reserved + report.committed > 0


@pytest.mark.parametrize(("connections", "seconds"), [(0, 1.0), (5_000, 1.0), (1, 0.0), (1, 601.0)])
async def test_a_load_has_bounds(connections: int, seconds: float) -> None:
    with pytest.raises(ValueError, match=r"connections|seconds"):
        await drive("http://h", "k", connections=connections, seconds=seconds, mix=Mix())


def test_the_command_prints_one_object() -> None:
    command = [sys.executable, "-m", "holdfast.bench", "drive"]
    with running_service() as service:
        options = ["--api-key", "k", "--seconds", "0.2", "--warm-up", "0", "--accounts", "3"]
        done = subprocess.run(
            [*command, service.url, *options], capture_output=True, text=True, check=True
        )
    report = json.loads(done.stdout)
    assert report["requests"] > 0
    assert report["reserve"]["p99_ms"] > 0


def test_the_command_says_what_is_wrong() -> None:
    command = [sys.executable, "-m", "holdfast.bench", "drive", "nowhere", "--api-key", "k"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "nowhere" in done.stderr
