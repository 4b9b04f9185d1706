"""A load that goes on in the background while a row does its fault, and is judged at the end.

    async with service(run.directory) as place, under_load(run, place) as load:
        await load.more(300)
        load.note("flushed")
        await place.redis.command("FLUSHALL")
        await place.open_again()
        await load.more(300)
        verdict = await load.judged()

The history is written into the run's directory however the block ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.faults.catalogue import Run
from tests.faults.checker import Verdict, check
from tests.faults.history import History
from tests.faults.load import Load
from tests.faults.place import PATIENCE_S, Place
from tests.faults.program import POLL_S


class Background:
    """The load of one row."""

    def __init__(self, place: Place, load: Load, callers: int) -> None:
        self.place = place
        self.load = load
        self.history: History = load.history
        self._stop = asyncio.Event()
        self._running = asyncio.create_task(load.run(callers=callers, stop=self._stop))

    async def more(self, operations: int, timeout_s: float = PATIENCE_S) -> None:
        """Wait until so many more operations were decided: done, or denied for good."""
        wanted = self.load.decided + operations
        await self.until(
            lambda: self.load.decided >= wanted, f"{operations} more operations", timeout_s
        )

    async def refused(self, operations: int, timeout_s: float = PATIENCE_S) -> None:
        """Wait until a closed service has refused so many more."""
        wanted = self.history.counted("refused") + operations
        await self.until(
            lambda: self.history.counted("refused") >= wanted,
            f"{operations} more refusals",
            timeout_s,
        )

    async def until(
        self, probe: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S
    ) -> None:
        """Wait for a condition, while the load goes on. Raises AssertionError with the logs."""
        deadline = time.monotonic() + timeout_s
        while not probe():
            if self._running.done():
                await self._running
                raise AssertionError(f"the load ended before {what}")
            if time.monotonic() >= deadline:
                said = self.place.log_tails()
                raise AssertionError(f"not within {timeout_s:g} s: {what}\n{said}")
            await asyncio.sleep(POLL_S)

    def note(self, text: str) -> int:
        """Write down in the history that something is done now; the time by monotonic_ns."""
        return self.history.note(text)

    async def end(self) -> None:
        """Ask for nothing new, and wait until what was asked is known or given up."""
        self._stop.set()
        await self._running

    async def judged(self, **options: Any) -> Verdict:
        """End the load, and check its history; `options` are those of `check`.

        Raises AssertionError with what was found to be wrong.
        """
        await self.end()
        verdict = await check(self.history, self.place, **options)
        verdict.assert_clean()
        return verdict

    async def cancel(self) -> None:
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._running


@asynccontextmanager
async def under_load(
    run: Run,
    place: Place,
    *,
    accounts: int | None = None,
    callers: int | None = None,
    **options: Any,
) -> AsyncIterator[Background]:
    """A load that has begun, on accounts that are open; 20 of them and 16 callers unless told
    otherwise, fewer in a quick run. `options` are those of `Load`."""
    accounts = accounts or run.sized(20, 8)
    callers = callers or run.sized(16, 6)
    load = Load(place.urls, place.key, History(), seed=run.seed, accounts=accounts, **options)
    background: Background | None = None
    try:
        await load.open()
        background = Background(place, load, callers)
        yield background
    finally:
        if background is not None:
            await background.cancel()
        load.history.dump(run.history)


async def vetted_anew(
    place: Place, before: Sequence[Mapping[str, Any]], timeout_s: float = PATIENCE_S
) -> float:
    """Wait until every shard is open in a later generation than these rows of `shard` have, and
    takes new spending; the seconds it took."""
    began = time.monotonic()
    generations = {row["id"]: row["generation"] for row in before}
    while True:
        rows = await place.shard_rows()
        if all(row["generation"] > generations[row["id"]] for row in rows):
            break
        if time.monotonic() - began >= timeout_s:
            raise AssertionError(f"no new generation in {timeout_s:g} s\n{place.log_tails()}")
        await asyncio.sleep(POLL_S)
    await place.open_again(timeout_s)
    return time.monotonic() - began
