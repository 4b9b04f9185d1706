"""Makes a Redis node ready to be vetted: its settings are right, its append-only file is whole.

Both happen before anything closes and without the vetter's lock: workers that do it at the same
time do no harm.
"""

from __future__ import annotations

import asyncio

from holdfast.wire import Node, ServerError
from settlement import incidents
from settlement.redis_settings import Finding, NodeReport, inspect, read_info
from settlement.state import WorkerState

# Rewriting 10 GB takes minutes on a slow disk; one that takes longer than this has hung.
_REWRITE_S = 1800.0
_POLL_FIRST_S = 0.02
_POLL_LAST_S = 0.5


class Refused(Exception):
    """A node cannot be vetted as it is; `finding` says what to mend."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


async def make_ready(state: WorkerState, node: Node, *, moved: bool) -> NodeReport:
    """Check a node's settings and, where it runs anew (`moved`), rewrite its append-only file.

    What refuses a node is one open incident until it is mended. Raises Refused, wire.WireError, and
    what asyncpg raises.
    """
    config, subject = state.config, f"redis {node.address}"
    try:
        report = await inspect(node, config.durability, config.redis_vouched)
        if report.refusals:
            raise Refused(report.refusals[0])
        if moved and report.appends:
            await rewrite_aof(node, vouched=config.redis_vouched)
    except Refused as refused:
        async with state.pool.acquire() as conn:
            summary = f"{subject} is kept closed: {refused.finding}"
            await incidents.begin(conn, "redis_settings", summary, subject=subject)
        raise
    async with state.pool.acquire() as conn:
        await incidents.end(conn, "redis_settings", subject=subject)
    return report


async def rewrite_aof(node: Node, *, vouched: bool = False) -> None:
    """BGREWRITEAOF, and wait until it has succeeded: a file that a crash tore is whole again.

    A Redis that is `vouched` for may forbid it. Raises Refused where it fails or does not end in
    half an hour, and wire.WireError.
    """
    try:
        await node.call("BGREWRITEAOF")
    except ServerError as error:
        if error.code == "NOPERM" and vouched:
            return
        if error.code not in ("ERR", "NOPERM"):
            raise
        # One that goes on already began in this run of Redis, and is as good.
        info = await read_info(node, "persistence")
        if not _rewriting(info):
            raise Refused(_failed(error.message)) from error
    try:
        async with asyncio.timeout(_REWRITE_S):
            poll_s = _POLL_FIRST_S
            while _rewriting(info := await read_info(node, "persistence")):
                await asyncio.sleep(poll_s)
                poll_s = min(poll_s * 1.5, _POLL_LAST_S)
    except TimeoutError as error:
        raise Refused(_failed(f"it has not ended within {_REWRITE_S:.0f} s")) from error
    status = info.get("aof_last_bgrewrite_status")
    if status != "ok":
        raise Refused(_failed(f"its status is {status}"))


def _rewriting(info: dict[str, str]) -> bool:
    return "1" in (info.get("aof_rewrite_in_progress"), info.get("aof_rewrite_scheduled"))


def _failed(why: str) -> Finding:
    return Finding(
        "BGREWRITEAOF",
        f"the append-only file could not be rewritten: {why}",
        "look at this node's log and disk; it must be able to fork and to write the file anew",
    )
