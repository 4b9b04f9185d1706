"""How long this machine keeps a program waiting that is due: what a bound on time has to allow.

    async with stalls() as stall:
        ...
    assert took_s <= 2.5 + stall.worst_s

A machine of two cores that runs other things besides gives no program its turn at once. What is
measured here is this program's; the service's have the same machine, and wait much alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

_TICK_S = 0.02


@dataclass(slots=True)
class Stall:
    """What was measured so far, in seconds."""

    worst_s: float = 0.0
    """The longest that a tick came late."""

    async def measure(self) -> None:
        """Tick until cancelled."""
        while True:
            due = time.monotonic() + _TICK_S
            await asyncio.sleep(_TICK_S)
            self.worst_s = max(self.worst_s, time.monotonic() - due)


@asynccontextmanager
async def stalls() -> AsyncIterator[Stall]:
    """Measure while the block runs."""
    stall = Stall()
    measuring = asyncio.create_task(stall.measure())
    try:
        yield stall
    finally:
        measuring.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await measuring
