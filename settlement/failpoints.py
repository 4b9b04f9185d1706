"""Points at which a test kills or stops the worker, to see that nothing is lost or doubled.

    HOLDFAST_TEST_FAILPOINT=insert:3        SIGKILL at the third time `insert` is reached
    HOLDFAST_TEST_FAILPOINT=delete:1:stop   SIGSTOP; whoever asked for it sends SIGCONT some day

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
"""Of a worker that settles and lends."""

VETTING_POINTS: Final = (
    "declared",  # Postgres has the generation
    "raised",  # Redis has it as well
    "loaded",  # its scripts are there
    "set_aside",  # of a shard that is rebuilt the valid entries are settled
    "rebuilding",  # Postgres says that it is
    "delete",  # before a call that deletes some of its keys
    "restart",  # before a call that sets it to the journal's mark
    "open",  # before Postgres is told that shards are open
)
"""Of a vetter that rebuilds, in order."""

DELIVERY_POINTS: Final = (
    "fanned",  # events have their deliveries
    "claimed",  # deliveries are claimed, nothing is sent
    "posted",  # the receiver has answered, nobody has noted it
)
"""Of a worker that sends events, in order."""

OUTBOX_POINTS: Final = (
    "outbox_taken",  # rows were taken and put off
    "outbox_looked",  # the journal has said what it lacks
    "outbox_granted",  # Redis has applied a row, Postgres has not noted it
    "outbox_shown",  # the journal shows an entry, its row is still pending
    "outbox_marked",  # the row is applied
)
"""Of a worker's outbox, in order."""

COMPENSATION_POINTS: Final = (
    "compensation_claimed",  # rows are claimed, and nothing was given
    "compensation_queued",  # the outbox has its grant, in a transaction that has not ended
    "compensation_given",  # Redis or the outbox has it, its row does not say so
    "compensation_noted",  # its row says that it was applied
)
"""Of a worker that gives what is owed, in order."""

ARCHIVE_POINTS: Final = (
    "archive_file",  # the file of a month has its name
    "archive_manifest",  # its manifest as well
    "archive_checked",  # it was read again
    "archive_opened",  # the openings are written, in the transaction
    "archive_detached",  # the partition is gone, in the transaction
    "archive_commit_sent",  # COMMIT has left, its answer has not come
    "archive_done",  # Postgres has committed
)
"""Of a command that archives, in order."""

_KNOWN: Final = (
    *(*POINTS, *VETTING_POINTS, *OUTBOX_POINTS),
    *(*DELIVERY_POINTS, *COMPENSATION_POINTS, *ARCHIVE_POINTS),
)
_ACTIONS: Final = {"": signal.SIGKILL, "stop": signal.SIGSTOP}

_armed: str | None = None
_hits_left = 0
_signal = signal.SIGKILL


def arm(setting: str | None) -> None:
    """Arm `<point>:<n>` or `<point>:<n>:stop` (n from 1), or nothing. Raises ValueError for
    anything else."""
    global _armed, _hits_left, _signal  # noqa: PLW0603 - one switch for the process, set at its start
    if setting is None:
        _armed = None
        return
    point, _, rest = setting.partition(":")
    count, _, action = rest.partition(":")
    known = point in _KNOWN and action in _ACTIONS
    if not known or not count.isdigit() or int(count) < 1:
        points = ", ".join(_KNOWN)
        raise ValueError(f"test_failpoint is <point>:<n> or <point>:<n>:stop, of {points}")
    _armed, _hits_left, _signal = point, int(count), _ACTIONS[action]


def hit(point: str) -> None:
    """A point was reached: if it is the armed one's turn, the process ends here, or stops."""
    global _hits_left  # noqa: PLW0603
    if point != _armed:
        return
    _hits_left -= 1
    if _hits_left == 0:
        os.kill(os.getpid(), _signal)


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
