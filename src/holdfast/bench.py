"""The load generator of `holdfast bench http`: reserves and commits as fast as they are answered.

One process on one core drives N kept-alive connections, each of which alternates a reserve and the
commit of the hold it made. A connection sends its next request from within the callback that got
the last answer, from bytes that were prepared: no task, no future, no JSON on the way. That costs
about a tenth of what the service spends on a request, so that the service is what is measured;
`cpu_us_per_request` and `cpu_share` say how near the generator itself was to its end.

A closed loop: a slow answer delays the requests after it, and latencies are those of a service
with N callers. Run it as a process of its own: `python -m holdfast.bench drive URL --api-key KEY`.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gc
import json
import os
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from holdfast.bench_mix import Mix, MixCall, mixed_calls
from holdfast.client import AsyncClient, HoldfastError
from holdfast.latency import LatencySummary, new_series, summarise
from holdfast.load_accounts import LOAD_CLIENT_RETRIES, open_accounts
from holdfast.loadwire import Requests, Target, Wire, WireLost, connect

__all__ = ["LoadReport", "Mix", "drive"]

_TIMEOUT_S = 10.0
# A connection that was lost is made again after a while drawn from the upper half of this.
_RECONNECT_S = 0.2


@dataclass(frozen=True)
class LoadReport:
    """What was answered within `elapsed_s`, after the warm-up.

    `requests` counts answers of any kind, `errors` those that were not successes, by status and
    code, and connections lost. `cpu_share` is the part of one core that the generator used.
    """

    connections: int
    accounts: int
    elapsed_s: float
    requests: int
    requests_per_s: float
    reserved: int
    committed: int
    over_estimate: int
    credits_committed: int
    errors: dict[str, int]
    reserve: LatencySummary
    commit: LatencySummary
    cpu_us_per_request: float
    cpu_share: float
    watched_cpu_us: dict[int, float]
    """Processor time of the watched processes while it counted, in µs a request."""


def process_cpu_s(pid: int) -> float:
    """User and system time of a process so far (proc_pid_stat(5), fields 14 and 15), in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def drive(
    url: str,
    api_key: str,
    *,
    connections: int,
    seconds: float,
    mix: Mix,
    warm_up_s: float = 1.0,
    watch: Sequence[int] = (),
) -> LoadReport:
    """Open the mix's accounts, load the service for `warm_up_s` + `seconds`, say what it did.

    `watch` are processes whose CPU is accounted to the requests.

    Raises HoldfastError where the accounts cannot be opened, ValueError for numbers out of range.
    """
    if not 1 <= connections <= 4_096:
        raise ValueError(f"connections is {connections}: it goes from 1 to 4,096")
    # Eight bytes an answer: ten minutes at 20,000 answers a second stay below 100 MB.
    if not 0 < seconds <= 600 or not 0 <= warm_up_s <= 60:
        raise ValueError("a load lasts up to 600 seconds, its warm-up up to 60")
    calls = mixed_calls(mix)
    prefix = f"bench-{secrets.token_hex(4)}"
    names = {each.account: f"{prefix}-{each.account:06d}" for each in calls}
    async with AsyncClient(url, api_key, retries=LOAD_CLIENT_RETRIES) as client:
        await open_accounts(client, dict.fromkeys(names.values(), mix.grant))
    target = Target.parse(url)
    load = _Load(_prepare(Requests(target, api_key), names, calls, mix.ttl_seconds))
    return await load.run(target, connections, seconds, warm_up_s, watch)


@dataclass(frozen=True, slots=True)
class _PreparedCall:
    """A call as pieces of its two requests, between which the hold's key is put."""

    reserve_head: bytes
    reserve_tail: bytes
    commit_head: bytes
    commit_middle: bytes
    commit_tail: bytes
    cost: int
    over: bool


def _prepare(
    requests: Requests, names: dict[int, str], calls: Sequence[MixCall], ttl_seconds: int
) -> list[_PreparedCall]:
    # Equal pieces are kept once, so that all of them stay near the processor.
    pieces: dict[bytes, bytes] = {}

    def kept(piece: bytes) -> bytes:
        return pieces.setdefault(piece, piece)

    # Stands for the hold's key; no request has this byte elsewhere.
    blank = "\0"
    prepared = []
    for call in calls:
        path = f"/v1/accounts/{names[call.account]}/holds"
        body = f'{{"amount":{call.estimate},"ttl_seconds":{ttl_seconds}}}'
        reserve_head, reserve_tail = requests.post(path, body, blank).split(b"\0")
        body = f'{{"amount":{call.cost},"on_shortfall":"cap"}}'
        commit_head, rest = requests.post(f"{path}/{blank}/commit", body).split(b"\0")
        # The headers in the middle are the same for all calls.
        middle, length, tail = rest.partition(b"Content-Length")
        prepared.append(
            _PreparedCall(
                reserve_head=kept(reserve_head),
                reserve_tail=kept(reserve_tail),
                commit_head=kept(commit_head),
                commit_middle=kept(middle),
                commit_tail=kept(length + tail),
                cost=call.cost,
                over=call.cost > call.estimate,
            )
        )
    return prepared


class _Load:
    """What the connections share: the calls to make, and what is counted while it counts."""

    def __init__(self, calls: Sequence[_PreparedCall]) -> None:
        self.calls = calls
        self.next_call = 0
        self.counting = False
        self.over = False
        self.reserve_s = new_series()
        self.commit_s = new_series()
        self.over_estimate = 0
        self.credits_committed = 0
        self.committed = 0
        self.reserved = 0
        self.errors: Counter[str] = Counter()

    async def run(
        self,
        target: Target,
        connections: int,
        seconds: float,
        warm_up_s: float,
        watch: Sequence[int] = (),
    ) -> LoadReport:
        """Warm up, count, stop; every connection finishes the request it has under way."""
        lanes = [asyncio.create_task(self._keep(target)) for _ in range(connections)]
        try:
            await asyncio.sleep(warm_up_s)
            self.counting = True
            began, cpu_began = time.perf_counter(), time.process_time()
            watched = {pid: process_cpu_s(pid) for pid in watch}
            await asyncio.sleep(seconds)
            self.counting = False
            elapsed_s = time.perf_counter() - began
            cpu_s = time.process_time() - cpu_began
            watched = {pid: process_cpu_s(pid) - was for pid, was in watched.items()}
        finally:
            self.over = True
            await asyncio.gather(*lanes)
        requests = len(self.reserve_s) + len(self.commit_s)
        return LoadReport(
            connections=connections,
            accounts=len({each.commit_head for each in self.calls}),
            elapsed_s=round(elapsed_s, 3),
            requests=requests,
            requests_per_s=round(requests / elapsed_s, 1),
            reserved=self.reserved,
            committed=self.committed,
            over_estimate=self.over_estimate,
            credits_committed=self.credits_committed,
            errors=dict(self.errors.most_common()),
            reserve=summarise(self.reserve_s),
            commit=summarise(self.commit_s),
            cpu_us_per_request=round(cpu_s / requests * 1e6, 1) if requests else 0.0,
            cpu_share=round(cpu_s / elapsed_s, 3),
            watched_cpu_us={
                pid: round(used_s / requests * 1e6, 1) if requests else 0.0
                for pid, used_s in watched.items()
            },
        )

    async def _keep(self, target: Target) -> None:
        """Keep one connection busy until the load is over; made again where it was lost."""
        while not self.over:
            try:
                lane = await connect(target, lambda: _Lane(self), timeout_s=_TIMEOUT_S)
            except WireLost:
                self.count_error("cannot connect")
            else:
                lane.begin()
                await lane.ended
                await lane.aclose()
            if not self.over:
                await asyncio.sleep(_RECONNECT_S * random.uniform(0.5, 1.0))

    def count_error(self, what: str) -> None:
        """Count what went wrong, if it counts now."""
        if self.counting:
            self.errors[what] += 1


class _Lane(Wire):
    """One connection's endless alternation: reserve, commit, reserve, ..."""

    def __init__(self, load: _Load) -> None:
        super().__init__(timeout_s=_TIMEOUT_S)
        self._load = load
        self._call = load.calls[0]
        self._key = b""
        self._committing = False
        self._began_at = 0.0
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def begin(self) -> None:
        """Send the reserve of the next call, unless the load is over."""
        load = self._load
        if load.over or not self.usable:
            self._end()
            return
        number = load.next_call
        load.next_call = number + 1
        self._call = call = load.calls[number % len(load.calls)]
        self._key = key = b"h%d" % number
        self._committing = False
        self._began_at = time.perf_counter()
        self.send(call.reserve_head + key + call.reserve_tail)

    def answered(self, status: int, body: bytes) -> None:
        now = time.perf_counter()
        load = self._load
        if load.counting:
            (load.commit_s if self._committing else load.reserve_s).append(now - self._began_at)
        if status >= 400:
            load.count_error(f"{status} {_code(body)}")
            self.begin()
        elif self._committing:
            if load.counting:
                call = self._call
                load.committed += 1
                load.credits_committed += call.cost
                load.over_estimate += call.over
            self.begin()
        else:
            load.reserved += load.counting
            self._commit(now)

    def _commit(self, now: float) -> None:
        if not self.usable:
            self._end()
            return
        call = self._call
        self._committing = True
        self._began_at = now
        self.send(call.commit_head + self._key + call.commit_middle + call.commit_tail)

    def lost(self) -> None:
        self._load.count_error("connection lost")
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def _code(body: bytes) -> str:
    try:
        return str(json.loads(body)["code"])
    except (ValueError, KeyError, TypeError):
        return "without a code"


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m holdfast.bench`: prints the report as one JSON object; 2 if there is none."""
    parser = argparse.ArgumentParser(prog="python -m holdfast.bench", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("drive", help="load a service and report what it did")
    command.add_argument("url")
    command.add_argument("--api-key", required=True)
    command.add_argument("--connections", type=int, default=64)
    command.add_argument("--seconds", type=float, default=10.0)
    command.add_argument("--warm-up", type=float, default=1.0, metavar="SECONDS")
    command.add_argument("--accounts", type=int, default=Mix.accounts)
    command.add_argument("--zipf", type=float, default=Mix.zipf_exponent, metavar="EXPONENT")
    command.add_argument("--watch", type=int, action="append", default=[], metavar="PID")
    command.add_argument("--seed", type=int, default=Mix.seed)
    given = parser.parse_args(arguments)
    try:
        mix = Mix(accounts=given.accounts, zipf_exponent=given.zipf, seed=given.seed)
        # Nothing the load makes is cyclic, and a collection in between would show as latency.
        gc.disable()
        report = uvloop.run(
            drive(
                given.url,
                given.api_key,
                connections=given.connections,
                seconds=given.seconds,
                mix=mix,
                warm_up_s=given.warm_up,
                watch=given.watch,
            )
        )
    except (HoldfastError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps(dataclasses.asdict(report), allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
