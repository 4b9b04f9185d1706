"""What one call costs: holdfast's wire against redis-py's connection pool, same server, same run.

    python tests/bench/wire_calls.py redis://127.0.0.1:6379 [--calls 50000] [--rounds 3]

Every caller sends an EVALSHA shaped like a reserve (7 keys, 14 arguments) and waits for its answer
before it sends the next one. CPU is that of this process alone, so it counts the client and not the
server. The server's share of the machine still bounds the calls a second.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio
import uvloop
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from holdfast.wire import Wire, slot_of

SCRIPT = "#!lua\nreturn {0, 1, 2, ARGV[1], 4, 5}"
KEYS = [
    f"hf:{{017}}:{part}"
    for part in (
        "meta",
        "lease:new",
        "lease:finish",
        "stream",
        "due",
        "acct:customer-4711",
        "key:customer-4711:0b0e4c1e-6a6b-4f0e",
    )
]
ARGUMENTS = ["reserve", 1_250_000, 0, 900_000, "member-7", "req-01JAF2", "key-3", b"{}"] + [
    f"fp{number:06d}" for number in range(6)
]
CALLERS = (1, 32, 256)

Call = Callable[[], Awaitable[Any]]


async def measure(call: Call, callers: int, calls: int) -> tuple[float, float]:
    """Calls a second, and CPU microseconds of this process per call."""

    async def caller() -> None:
        for _ in range(calls // callers):
            await call()

    await asyncio.gather(*(call() for _ in range(callers)))  # every connection is there
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    done = calls // callers * callers
    return done / wall, cpu / done * 1e6


async def compare(url: str, calls: int, rounds: int) -> None:
    wire = Wire(url)
    await wire.connect()
    pool = redis.asyncio.ConnectionPool.from_url(
        url, max_connections=max(CALLERS), retry=Retry(NoBackoff(), 0)
    )
    client = redis.asyncio.Redis(connection_pool=pool)
    slot = slot_of(KEYS[0])
    sha = (await wire.call(slot, "SCRIPT", "LOAD", SCRIPT)).decode()
    command = ("EVALSHA", sha, len(KEYS), *KEYS, *ARGUMENTS)

    def by_wire() -> Awaitable[Any]:
        return wire.send(slot, *command)

    def by_pool() -> Awaitable[Any]:
        call: Awaitable[Any] = client.execute_command(*command)  # type: ignore[no-untyped-call]
        return call

    for callers in CALLERS:
        for name, call, share in (("holdfast", by_wire, 1), ("redis-py", by_pool, 4)):
            amount = max(callers, (calls if callers > 1 else calls // 8) // share)
            best = [await measure(call, callers, amount) for _ in range(rounds)]
            rate, cpu = max(rate for rate, _ in best), min(cpu for _, cpu in best)
            sys.stdout.write(
                f"  {callers:4d} callers  {name}  {rate:9,.0f} calls/s  {cpu:6.1f} µs\n"
            )
    ratio = wire.traffic.sent / wire.traffic.writes
    sys.stdout.write(f"  {ratio:.1f} commands a write on average\n")
    await client.aclose()
    await pool.disconnect()
    await wire.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of a call: holdfast's wire and redis-py.")
    parser.add_argument("url", help="a Redis that may be used, such as redis://127.0.0.1:6379")
    parser.add_argument("--calls", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3, help="the best one counts")
    options = parser.parse_args()
    for name, factory in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop)):
        sys.stdout.write(f"{name}\n")
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(compare(options.url, options.calls, options.rounds))


if __name__ == "__main__":
    main()
