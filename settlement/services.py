"""Long-running services of one process: each is started again when it ends; none ends another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from holdfast.telemetry import Sampler

# A service that fails is back before a lease (2 s) has run out, once; one that keeps failing costs
# a try every 5 s.
_PAUSE_FIRST_S: Final = 0.1
_PAUSE_LAST_S: Final = 5.0
# After this long without a failure the next one is a first one.
_HEALTHY_S: Final = 10.0


async def keep(services: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
    """Run all of them until cancelled; what each runs is meant never to return."""
    sampler = Sampler()
    async with asyncio.TaskGroup() as group:
        for name, run in services.items():
            group.create_task(_keep_one(name, run, sampler), name=f"service {name}")


async def _keep_one(name: str, run: Callable[[], Awaitable[None]], sampler: Sampler) -> None:
    pause_s = _PAUSE_FIRST_S
    while True:
        started = time.monotonic()
        error = "it returned"
        try:
            await run()
        except Exception as failure:  # whatever it is, the others go on
            error = f"{type(failure).__name__}: {failure}"
        sampler.log("service_failed", name, service=name, error=error, pause_s=pause_s)
        if time.monotonic() - started > _HEALTHY_S:
            pause_s = _PAUSE_FIRST_S
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _PAUSE_LAST_S)
