"""Which shards are to be vetted, and why: compares boots and rows, and examines doubts.

What is only not this worker's latest news is no reason: rows are read behind everything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from holdfast import scripts
from holdfast.wire import Node, RedisUnavailable, ServerError, WireError
from settlement.redis_settings import Boot, boot_of, read_info
from settlement.state import ShardRow, WorkerState
from settlement.verdict import AHEAD, Mark, Superseded, read_tail

# A node that answers nothing for so long is left out of this look.
_ANSWER_S = 0.5
# Streams that are read at the same time: 16 pages of half a megabyte.
_READERS = 16


@dataclass(slots=True)
class Suspects:
    """Shards of one node that are to be vetted, each with the reason, and the boot it runs as."""

    node: Node
    boot: Boot
    reasons: dict[int, str]
    moved: bool = False
    """Whether some row names another boot: then the append-only file is rewritten first."""

    @property
    def reason(self) -> str:
        return "; ".join(dict.fromkeys(self.reasons.values()))


@dataclass(frozen=True, slots=True)
class _Probe:
    """What Redis said about a doubted shard, read before its row."""

    asked: str
    """The nonce that this worker believed in."""
    nonce: str
    settled: int
    loaded: bool
    """Whether the scripts of the generation this worker knows are there."""
    ahead: bool = False
    """Whether the clock of its Redis was ahead."""


async def look(state: WorkerState, doubts: Mapping[int, str]) -> list[Suspects]:
    """Compare boots and rows, and find out which doubts are true. Raises FAILURES."""
    nodes = [node for node in state.shards.wire.nodes() if node.connected]
    boots = dict(zip(nodes, await asyncio.gather(*map(_boot, nodes)), strict=True))
    answering = {node for node, boot in boots.items() if boot is not None}
    answered = [number for number in doubts if node_of(state, number) in answering]
    probed = await asyncio.gather(*(_probe(state, number) for number in answered))
    probes = dict(zip(answered, probed, strict=True))
    await state.refresh()
    if doubts:
        # Postgres itself may be behind what this worker has settled: only what it says counts.
        await state.refresh(doubts, force=True)
    proven = await _prove(state, probes)
    found: dict[Node, Suspects] = {}
    for row in state.rows:
        node = node_of(state, row.number)
        boot = None if node is None else boots.get(node)
        if node is None or boot is None or row.state == "stopped":
            continue
        moved = Boot(row.run_id, row.replid) != boot
        if moved:
            reason = "this Redis was never vetted" if not row.run_id else "Redis runs anew"
        elif row.state in ("vetting", "rebuilding"):
            reason = "an earlier vetting had not ended"
        else:
            reason = proven.get(row.number, "")
        if reason:
            suspects = found.setdefault(node, Suspects(node, boot, {}))
            suspects.reasons[row.number] = reason
            suspects.moved |= moved
    return list(found.values())


async def _prove(state: WorkerState, probes: Mapping[int, _Probe | None]) -> dict[int, str]:
    """The doubts that are true, with what was found."""
    readers = asyncio.Semaphore(_READERS)

    async def one(number: int, probe: _Probe) -> str:
        async with readers:
            return await _true_doubt(state, state.rows[number], probe)

    asked = {number: probe for number, probe in probes.items() if probe is not None}
    return dict(
        zip(asked, await asyncio.gather(*(one(n, p) for n, p in asked.items())), strict=True)
    )


def node_of(state: WorkerState, number: int) -> Node | None:
    """The primary that serves a shard, or None where the cluster names none."""
    try:
        return state.shards.node_of(number)
    except RedisUnavailable:
        return None


async def _probe(state: WorkerState, number: int) -> _Probe | None:
    keys, nonce = state.shards.keys[number], state.rows[number].nonce
    if not scripts.NONCE_PATTERN.fullmatch(nonce):
        return None
    name = scripts.names(nonce, state.shards.test_clock)["lease"]
    try:
        async with asyncio.timeout(_ANSWER_S):
            node = state.shards.node_of(number)
            meta, loaded = await asyncio.gather(
                node.call("HMGET", keys.meta, "nonce", "settled", "ahead_ms"),
                node.call("SCRIPT", "EXISTS", name),
            )
    except ServerError as error:
        return _Probe(nonce, f"({error.message})", 0, True)
    except (WireError, TimeoutError):
        return None  # it is away: its boot will tell when it is back
    found, settled = meta[0] or b"", meta[1] or b"0"
    return _Probe(
        asked=nonce,
        nonce=found.decode(errors="replace"),
        settled=int(settled) if settled.isdigit() else 0,
        loaded=bool(loaded[0]),
        ahead=meta[2] is not None,
    )


async def _true_doubt(state: WorkerState, row: ShardRow, probe: _Probe) -> str:
    """Why a doubted shard has to be vetted, or '' where it is in order after all.

    The probe was read before the row: settled ≤ mark then, as the mark only grows.
    """
    if probe.asked != row.nonce:
        return ""  # it was about a generation that is over; this worker has now read the new one
    if probe.nonce != row.nonce:
        return "Redis is in another generation than Postgres"
    if not probe.loaded:
        return "Redis has forgotten its scripts"
    if probe.settled > row.mark:
        return "Redis has settled more than the journal holds"
    if probe.ahead:
        return AHEAD
    try:
        mark = Mark(row.mark, row.chain)
        tail = await read_tail(state.shards, row.number, row.nonce, mark)
    except ServerError as error:
        return f"its stream cannot be read: {error.message}"
    except (WireError, Superseded):
        return ""  # it is away, or another worker has taken it on
    return tail.fault


async def _boot(node: Node) -> Boot | None:
    """Which run of Redis answers, or None where none does in time."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            parts = await asyncio.gather(read_info(node, "server"), read_info(node, "replication"))
    except (WireError, TimeoutError):
        return None
    return boot_of(parts[0] | parts[1])
