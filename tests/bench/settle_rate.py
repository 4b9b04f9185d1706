"""How fast one worker settles: reserve and commit pairs, from the stream into all tables.

    python tests/bench/settle_rate.py [--entries 40000] [--batch 2000] [--accounts 100]
                                      [--shards 4] [--low-balance 1000000] [--profile]

Starts a Valkey and a Postgres of its own (without fsync: this measures CPU, not the disk), writes
the entries with the real scripts, then lets the worker's settle loop take them. CPU is told apart
by process: on a machine with few cores the two share what each could have for itself.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from holdfast.embedded import Postgres, Valkey
from holdfast.staging import remove_data
from settlement.worker import SettleLoop
from tests.stack import Stack

CALLERS = 64


async def write(stack: Stack, accounts: int, pairs: int, low_balance: int | None) -> None:
    """Pairs of reserve and commit, by some callers at once."""
    names = [f"customer-{number:04d}" for number in range(accounts)]
    for name in names:
        settings = () if low_balance is None else ("low_balance", str(low_balance))
        await stack.open(name, *settings, grant=10**12)

    async def caller(first: int) -> None:
        for number in range(first, pairs, CALLERS):
            account, key = names[number % accounts], f"0b0e4c1e-6a6b-4f0e-{number:012d}"
            await stack.reserve(account, key, 125_000, member=f"user-{number % 7}")
            await stack.commit(account, key, 91_000 + number % 1000)

    await asyncio.gather(*(caller(first) for first in range(CALLERS)))


async def settle_all(loop: SettleLoop) -> int:
    """Rounds until nothing is left; answers how many entries."""
    done = 0
    while settled := (await loop.round())[0]:
        done += settled
    return done


def cpu_s(pid: int) -> float:
    """CPU seconds of a server and its children, so far."""
    server = psutil.Process(pid)
    times = [p.cpu_times() for p in (server, *server.children())]
    return sum(t.user + t.system for t in times)


async def measure(args: argparse.Namespace, valkey: Valkey, postgres: Postgres) -> None:
    settings = {"shards": args.shards, "settle_batch": args.batch}
    async with Stack(valkey.url, postgres.url, **settings) as stack:
        await write(stack, args.accounts, args.entries // 2, args.low_balance)
        gc.collect()
        profile = cProfile.Profile() if args.profile else None
        cpu, pg_cpu, wall = time.process_time(), cpu_s(postgres.pid), time.perf_counter()
        if profile:
            profile.enable()
        done = await settle_all(SettleLoop(stack.state))
        if profile:
            profile.disable()
        wall = time.perf_counter() - wall
        cpu, pg_cpu = time.process_time() - cpu, cpu_s(postgres.pid) - pg_cpu
        sys.stdout.write(
            f"{done} entries in {wall:.2f} s: {done / wall:,.0f} entries/s;"
            f" CPU us an entry: worker {cpu / done * 1e6:.1f}, Postgres {pg_cpu / done * 1e6:.1f}\n"
        )
        if profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(18)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=40_000)
    parser.add_argument("--batch", type=int, default=2000)
    parser.add_argument("--accounts", type=int, default=100)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--low-balance", type=int, help="of every account, none crosses it")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="holdfast-bench-"))
    directory.chmod(0o711)
    try:
        with (
            Valkey.start(directory / "valkey", appendfsync="everysec") as valkey,
            Postgres.start(directory / "postgres", fsync=False) as postgres,
        ):
            asyncio.run(measure(args, valkey, postgres))
    finally:
        remove_data(directory)


if __name__ == "__main__":
    main()
