"""Points at which a test kills the worker, to see that nothing is lost or doubled.

    HOLDFAST_TEST_FAILPOINT=insert:3      SIGKILL at the third time `insert` is reached

Production never sets it; then a point costs one comparison. A process has at most one armed point.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable
from typing import Final

POINTS: Final = (
    "read",  # entries were read from the stream
    "begin",  # the transaction has begun
    "insert",  # the journal has the rows, in the transaction
    "commit_sent",  # COMMIT has left, its answer has not come
    "commit_ok",  # Postgres has committed, Redis does not know
    "before_trim",
    "trim",  # Redis has trimmed
    "lease",  # between the proof of life and the lease
)

_armed: str | None = None
_hits_left = 0


def arm(setting: str | None) -> None:
    """Arm `<point>:<n>` (n from 1), or nothing. Raises ValueError for anything else."""
    global _armed, _hits_left  # noqa: PLW0603 - one switch for the process, set at its start
    if setting is None:
        _armed = None
        return
    point, _, count = setting.partition(":")
    if point not in POINTS or not count.isdigit() or int(count) < 1:
        raise ValueError(f"test_failpoint is <point>:<n> with a point of {', '.join(POINTS)}")
    _armed, _hits_left = point, int(count)


def hit(point: str) -> None:
    """A point was reached: the process ends here, now, if it is the armed one's turn."""
    global _hits_left  # noqa: PLW0603
    if point != _armed:
        return
    _hits_left -= 1
    if _hits_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


async def hit_during(point: str, work: Awaitable[None]) -> None:
    """Do `work`; where the point is armed, it is reached when the work has sent what it sends."""
    if point != _armed:
        await work
        return
    running = asyncio.ensure_future(work)
    for _ in range(5):  # enough turns of the loop for a coroutine to reach its first wait
        await asyncio.sleep(0)
    hit(point)
    await running
