"""Which worker works on which shards, and the wait until one has taken over from another.

A worker's name in Postgres has its process id. A claim lasts 3 s; who shares out what is free finds
it within a round of 0.5 s.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.keys import shard_of
from tests.faults.place import PATIENCE_S, Place, Program
from tests.faults.program import POLL_S

TURNS = {"read": (25, 60), "lease": (1, 4), "before_trim": (1, 2), "trim": (1, 2)}
"""The first and the last turn of a fail-point (settlement/failpoints.py) at which a worker that
joins is at work on shards of its own: rounds of reading go on without any."""
ANY_TURN = (1, 30)
"""Those of the other points, which settling alone reaches."""

Rows = list[dict[str, Any]]


def stopped(worker: Program) -> bool:
    """Whether it is stopped, also by itself at a fail-point. Raises AssertionError if it ended."""
    try:
        state = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        state = "X"
    assert state not in "XZ", f"{worker.name} ended with {worker.code}:\n{worker.log_tail()}"
    return state == "T"


def is_of(claim: str, worker: Program) -> bool:
    """Whether a worker's name in Postgres is this one's."""
    return f"-{worker.pid}-" in claim


def claimed(rows: Rows, worker: Program) -> set[int]:
    """The shards that a worker claims, by rows of `shard`."""
    return {row["id"] for row in rows if is_of(row["claimed_by"], worker)}


async def until_claims(
    place: Place, worker: Program, least: int = 1, timeout_s: float = PATIENCE_S
) -> Rows:
    """Wait until a worker claims so many shards; the rows that say so."""
    deadline = time.monotonic() + timeout_s
    while True:
        rows = await place.shard_rows()
        if len(claimed(rows, worker)) >= least:
            return rows
        assert worker.running, f"{worker.name} ended with {worker.code}:\n{worker.log_tail()}"
        if time.monotonic() >= deadline:
            told = [(row["claimed_by"], row["state"]) for row in rows]
            raise AssertionError(f"{worker.name} has not {least} of {told}\n{place.log_tails()}")
        await asyncio.sleep(POLL_S)


async def ends(place: Place) -> dict[int, tuple[int, int]]:
    """Per shard the last entry of Redis, and up to which one it knows that they are settled."""
    async with place.redis_client() as client, client.pipeline(transaction=True) as pipeline:
        for shard in place.shards:
            pipeline.hmget(shard.meta, "seq", "settled")
        metas = await pipeline.execute()
    return {
        number: (int(seq or 0), int(settled or 0)) for number, (seq, settled) in enumerate(metas)
    }


def revetted(rows: Rows, before: Rows) -> list[int]:
    """Shards that are in another generation than they were."""
    was = {row["id"]: row["generation"] for row in before}
    return [row["id"] for row in rows if row["generation"] != was[row["id"]]]


def one_of_each(shards: int) -> list[str]:
    """An account's name for every shard."""
    names = (f"each-{number}" for number in itertools.count())
    found: dict[int, str] = {}
    while len(found) < shards:
        name = next(names)
        found.setdefault(shard_of(name, shards), name)
    return list(found.values())


async def until_rows(place: Place, done: Callable[[Rows], bool], what: str) -> None:
    """Wait until the rows of `shard` are so."""
    deadline = time.monotonic() + PATIENCE_S
    while not done(rows := await place.shard_rows()):
        if time.monotonic() >= deadline:
            raise AssertionError(
                f"not within {PATIENCE_S:g} s: {what}: {rows}\n{place.log_tails()}"
            )
        await asyncio.sleep(POLL_S)
