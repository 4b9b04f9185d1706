"""`holdfast bench http`: what one API process serves, beside the ceiling, in one run.

    round 1: holdfast, ceiling · round 2: ceiling, holdfast · ...   medians, spread and their ratio

Both sides have a Valkey with AOF always, a database and a running settlement worker of the same
release; only the API differs (ceiling.py). Where the machine has two cores, the API keeps to one
and the load generator to the other; stores and workers run where there is room. API CPU is what
the kernel accounts to the process, per answered request.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.children import free_port
from holdfast.embedded import Postgres, Valkey
from holdfast.staging import temporary_directory

_START_S = 30.0


@dataclass(frozen=True)
class BenchOptions:
    """Rounds alternate which side goes first; a round takes `seconds` + 1 a side."""

    rounds: int = 5
    seconds: float = 5.0
    connections: int = 192
    accounts: int = 1000


@dataclass(slots=True)
class Side:
    """One of the two: its processes, and what its rounds gave."""

    name: str
    url: str
    api_key: str
    pids: dict[str, int]
    reports: list[dict[str, Any]] = field(default_factory=list)


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", *words]


def _run(environment: dict[str, str] | None, *words: str) -> bytes:
    """What a program prints. Raises RuntimeError with what it said where it fails."""
    done = subprocess.run(_command(*words), env=environment, check=False, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"{words[0]} failed: {done.stderr.decode(errors='replace')[-800:]}")
    return done.stdout


@contextmanager
def _running(words: list[str], environment: dict[str, str], log: Path) -> Iterator[Any]:
    with log.open("ab") as out:
        process = subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        if process.poll() is None:
            process.kill()
            process.wait()


def _await_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until /readyz answers 200. Raises RuntimeError with the end of the log."""
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        with (
            suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"{url}/readyz", timeout=1) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.05)  # between two looks at another process
    raise RuntimeError(f"{url} did not become ready: {log.read_text(errors='replace')[-800:]}")


def _start(stack: ExitStack, name: str, directory: Path) -> Side:
    """Stores, worker and API of one side."""
    valkey = stack.enter_context(Valkey.start(directory / f"valkey-{name}"))
    postgres = stack.enter_context(Postgres.start(directory / f"postgres-{name}"))
    environment = {
        **os.environ,
        "HOLDFAST_REDIS_URL": valkey.url,
        "HOLDFAST_DATABASE_URL": postgres.url,
        "HOLDFAST_DATA": str(directory),
    }
    _run(environment, "holdfast", "migrate")
    words = ("key", "create", "--name", "bench", "--scopes", "all", "--json")
    made = json.loads(_run(environment, "holdfast", *words))
    log = directory / f"{name}.log"
    worker = stack.enter_context(_running(_command("holdfast", "settle"), environment, log))
    port = free_port()
    program = ["holdfast.ceiling"] if name == "ceiling" else ["holdfast", "serve"]
    api = stack.enter_context(_running(_command(*program, "--port", str(port)), environment, log))
    _pin(api.pid, 0)
    url = f"http://127.0.0.1:{port}"
    _await_ready(url, api, log)
    pids = {"api": api.pid, "worker": worker.pid, "valkey": valkey.pid}
    return Side(name, url, made["key"], pids)


def _round(side: Side, options: BenchOptions) -> None:
    """Load one side once. Raises RuntimeError where a call was refused."""
    numbers = {
        "--connections": options.connections,
        "--seconds": options.seconds,
        "--accounts": options.accounts,
        "--warm-up": 1,
    }
    given = [text for name, value in numbers.items() for text in (name, str(value))]
    for pid in side.pids.values():
        given += ["--watch", str(pid)]
    words = ("holdfast.bench", "drive", side.url, "--api-key", side.api_key)
    with subprocess.Popen(_command(*words, *given), stdout=subprocess.PIPE) as load:
        _pin(load.pid, 1)
        printed, _ = load.communicate()
    if load.returncode != 0:
        raise RuntimeError(f"the load of {side.name} failed")
    report = json.loads(printed)
    if report["errors"]:
        raise RuntimeError(f"{side.name} refused calls: {report['errors']}")
    side.reports.append(report)


def _pin(pid: int, core: int) -> None:
    """Keep a process on one core, where there are two; the API on one, the load on the other."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(pid, cores[core : core + 1])


def _median(side: Side, value: Callable[[dict[str, Any]], float]) -> dict[str, float]:
    values = [value(report) for report in side.reports]
    return {
        "median": round(statistics.median(values), 1),
        "lowest": round(min(values), 1),
        "highest": round(max(values), 1),
    }


def _summary(side: Side) -> dict[str, Any]:
    return {
        "requests_per_s": _median(side, lambda r: r["requests_per_s"]),
        "reserve_p50_ms": _median(side, lambda r: r["reserve"]["p50_ms"]),
        "reserve_p99_ms": _median(side, lambda r: r["reserve"]["p99_ms"]),
        "load_generator_cpu_share": _median(side, lambda r: r["cpu_share"]),
        **{
            f"{name}_cpu_us_per_request": _median(side, _watched(pid))
            for name, pid in side.pids.items()
        },
    }


def _watched(pid: int) -> Callable[[dict[str, Any]], float]:
    return lambda report: float(report["watched_cpu_us"][str(pid)])


def run_bench(options: BenchOptions, note: Callable[[str], None]) -> dict[str, Any]:
    """Run it all in a temporary directory. Raises RuntimeError where a side fails.

    Answers, per side, medians with the lowest and highest of the rounds, and the ratio of requests
    per second, holdfast to ceiling: median of the rounds' ratios.
    """
    with ExitStack() as stack:
        directory = stack.enter_context(temporary_directory("holdfast-bench-"))
        sides = [_start(stack, name, directory) for name in ("holdfast", "ceiling")]
        for number in range(options.rounds):
            for side in sides if number % 2 == 0 else sides[::-1]:
                _round(side, options)
                last = side.reports[-1]
                note(f"round {number + 1}: {side.name} {last['requests_per_s']:,.0f} requests/s")
        ours, ceiling = sides
        ratios = [
            one["requests_per_s"] / other["requests_per_s"]
            for one, other in zip(ours.reports, ceiling.reports, strict=True)
        ]
    return {
        "options": dataclasses.asdict(options),
        "cores": len(os.sched_getaffinity(0)),
        "holdfast": _summary(ours),
        "ceiling": _summary(ceiling),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_lowest": round(min(ratios), 3),
        "ratio_highest": round(max(ratios), 3),
    }
