"""An operator's way out where shards have recorded a time that was wrong.

Redis and Postgres that jump ahead together (one machine, one bad time server) agree with each
other, so leases record that time (`meta.clock_ms`). Back at the right time, Redis is behind what
its shards have recorded, and they stay closed until time has caught up, which may take days.

    find the shards ─▶ three clocks agree ─▶ incident ─▶ `clock_reset`, shard by shard

Rules
- Redis, Postgres and the machine of the operator must agree within a second; run from elsewhere,
  the third one is a witness where both stores stand on one machine. Nobody else knows which of two
  times was wrong: so a person says it, with a reason.
- Incident and audit are written first: a reset that nobody can find out about does not happen.
- The script changes only what is behind, in the generation that this row names, while its Redis
  tells the time that was compared. It ends both leases: those of before were lent ahead of time.
  Nothing opens by it: by the wrong time Redis has ended records early, so that a worker rebuilds
  the shard from the journal first.

Failures. A shard that was vetted anew meanwhile, or a clock that moved again, raises NotReset. What
was reset stays so; running it again does the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from holdfast import audit
from holdfast.codes import Code
from holdfast.telemetry import log
from holdfast.wire import Node
from settlement import incidents
from settlement.clocks import SLACK_MS, Clocks, Span, skew_ms
from settlement.queries import sql
from settlement.state import WorkerState
from settlement.suspicion import node_of


class NotReset(Exception):
    """Nothing, or not all, could be reset; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """A shard that has recorded a later time than its Redis tells."""

    number: int
    recorded_ms: int
    now_ms: int
    """By its Redis, whose time agrees with Postgres's and this machine's."""


async def shards_ahead(state: WorkerState, numbers: Collection[int] | None = None) -> list[Ahead]:
    """The open shards (of these; None: of all) that are closed because of what they recorded.

    Raises NotReset where the clocks do not agree, wire.WireError, and what asyncpg raises.
    """
    await state.refresh(force=True)
    wanted = range(state.shards.count) if numbers is None else numbers
    by_node: dict[Node, list[int]] = {}
    for number in sorted(wanted):
        node = node_of(state, number)
        if state.rows[number].state == "open" and node is not None:
            by_node.setdefault(node, []).append(number)
    found: list[Ahead] = []
    for node, its in by_node.items():
        for number, now_ms in (await _agreed_ms(state, node, its)).items():
            text = await node.call("HGET", state.shards.keys[number].meta, "clock_ms")
            recorded_ms = int(text or 0)
            if now_ms < recorded_ms - SLACK_MS:
                found.append(Ahead(number, recorded_ms, now_ms))
    return found


async def _agreed_ms(state: WorkerState, node: Node, numbers: list[int]) -> dict[int, int]:
    """The time of a node, as the scripts of each shard see it. Raises NotReset."""
    began = time.monotonic()
    seconds, micros = await node.call("TIME")
    reading = Span(began, time.monotonic())
    taken_ms = int(seconds) * 1000 + int(micros) // 1000
    offsets = await Clocks(state).offsets(node, numbers, taken_ms)
    async with state.pool.acquire() as conn:
        began = time.monotonic()
        postgres_ms: int = await conn.fetchval(sql("clock_now"))
        postgres = Span(began, time.monotonic())

    def compare(whose: str, told_ms: int, span: Span) -> None:
        skew = skew_ms(told_ms, span, postgres_ms, postgres)
        if abs(skew) > SLACK_MS:
            where = "ahead of" if skew > 0 else "behind"
            raise NotReset(
                f"the clock of {whose} is {abs(skew):.0f} ms {where} Postgres's: set all clocks"
                " right first, or what is recorded then is wrong as well"
            )

    found = {number: taken_ms + offsets.get(number, 0) for number in numbers}
    for told_ms in set(found.values()):
        compare(f"redis {node.address}", told_ms, reading)
    now = time.monotonic()
    compare("this machine", int(time.time() * 1000), Span(now, now))
    return found


async def reset_clocks(
    state: WorkerState, numbers: Collection[int] | None, reason: str, asked_by: str
) -> list[Ahead]:
    """Let these shards (None: all) go on from now; answers those that were ahead.

    Raises as `shards_ahead` does.
    """
    ahead = await shards_ahead(state, numbers)
    if not ahead:
        return []
    latest = max(each.recorded_ms for each in ahead)
    async with state.pool.acquire() as conn, conn.transaction():
        rows = [
            audit.Row(
                audit.Caller(asked_by),
                "shard.clock_reset",
                f"shard:{each.number}",
                before={"recorded_ms": each.recorded_ms},
                after={"now_ms": each.now_ms, "reason": reason},
            )
            for each in ahead
        ]
        await audit.record_rows(conn, rows)
        await incidents.record(
            conn,
            "clock_reset",
            f"{asked_by} let {_shards(ahead)} go on from {moment(ahead[0].now_ms)}, though a time"
            f" up to {moment(latest)} was recorded: {reason}",
            shard=ahead[0].number if len(ahead) == 1 else None,
            asked_by=asked_by,
            reason=reason,
            recorded_ms={str(each.number): each.recorded_ms for each in ahead},
            now_ms=ahead[0].now_ms,
        )

    async def one(each: Ahead) -> Code:
        keys = state.shards.keys[each.number].of_shard()[:3]
        nonce = state.rows[each.number].nonce
        code, _ = await state.shards.run(each.number, "clock_reset", nonce, keys, [each.now_ms])
        return code

    # All at once: a worker that finds the first of them vets the whole node.
    codes = await asyncio.gather(*map(one, ahead))
    for each, code in zip(ahead, codes, strict=True):
        if code is not Code.OK:
            raise NotReset(
                f"shard {each.number} was vetted anew, or its clock moved ({code.name}): look again"
            )
        log("clock_reset", shard=each.number, recorded_ms=each.recorded_ms, now_ms=each.now_ms)
    return ahead


def _shards(ahead: list[Ahead]) -> str:
    numbers = ", ".join(str(each.number) for each in ahead[:8])
    more = f" and {len(ahead) - 8} more" if len(ahead) > 8 else ""
    return f"shard{'s' if len(ahead) > 1 else ''} {numbers}{more}"


def moment(ms: int) -> str:
    """A time as people read it, to the second, in UTC."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
