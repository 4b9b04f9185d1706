"""What operators and machines ask: does it live, is it ready, how is it going, what is there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from holdfast import compensations, deliveries, trials
from holdfast.errors import NotFound, StoreUnavailable
from holdfast.http import openapi as description
from holdfast.http import problems
from holdfast.http.answers import Answer
from holdfast.http.bodies import NoQuery
from holdfast.http.requests import Call
from holdfast.survey import ShardView
from holdfast.telemetry import Reading
from holdfast.wire import Wire, WireError


class LiveAnswer(TypedDict):
    """A process that answers."""

    alive: bool


class ClosedShard(TypedDict):
    """A shard that takes no calls, and why."""

    shard: int
    reason: str


class ReadyAnswer(TypedDict):
    """Both stores answer and a shard is open."""

    ready: bool
    open: Annotated[int, Field(description="how many shards are open")]
    closed: list[ClosedShard]


async def livez(call: Call, query: NoQuery) -> Answer[LiveAnswer]:
    """This process answers."""
    return Answer(200, {"alive": True})


async def readyz(call: Call, query: NoQuery) -> Answer[ReadyAnswer]:
    """Both stores answer and a shard is open. Closed shards are listed, with the reason."""
    ledger = call.service.ledger
    await asyncio.gather(_redis_answers(ledger.shards.wire), ledger.pool.ping())
    shards = await ledger.survey()
    closed: list[ClosedShard] = [
        {"shard": each.number, "reason": each.reason} for each in shards if not each.open
    ]
    if len(closed) == len(shards):
        why = shards[0].reason
        error = StoreUnavailable(why, f"every shard is closed, the first one because of: {why}")
        error.members["closed"] = closed
        raise error
    return Answer(200, {"ready": True, "open": len(shards) - len(closed), "closed": closed})


async def _redis_answers(wire: Wire) -> None:
    """Raises StoreUnavailable unless one primary answers."""
    for node in wire.nodes():
        try:
            await node.call("PING")
            return
        except WireError:
            continue
    raise StoreUnavailable("redis", "Redis cannot be reached")


async def metrics(call: Call, query: NoQuery) -> Answer[None]:
    """Metrics of all API processes, for Prometheus."""
    ledger = call.service.ledger
    gauges = [*shard_gauges(await ledger.survey())]
    with suppress(StoreUnavailable):  # its absence says so; all others are told
        gauges += deliveries.gauges(await deliveries.standing(ledger.pool))
        gauges += await compensations.gauges(ledger.pool)
        gauges += await trials.gauges(ledger.pool)
    text, media_type = call.service.telemetry.exposition(gauges)
    return Answer(200, None, content=text, media_type=media_type.encode())


def shard_gauges(shards: Iterable[ShardView]) -> Iterator[Reading]:
    """What a survey says, as gauges of telemetry.METRICS."""
    for each in shards:
        label = (str(each.number),)
        yield "holdfast_shard_open", label, float(each.open)
        yield "holdfast_shard_backlog_entries", label, float(each.backlog)
        yield "holdfast_shard_waiting_seconds", label, each.waiting_ms / 1000
        yield "holdfast_lease_new_seconds", label, each.new_ms / 1000
        yield "holdfast_lease_finish_seconds", label, each.finish_ms / 1000


async def openapi(call: Call, query: NoQuery) -> Answer[dict[str, Any]]:
    """This description."""
    return Answer(200, {}, content=description.text(tuple(call.service.routes.values())))


async def problem(call: Call, query: NoQuery) -> Answer[None]:
    """What a problem's `type` points to: what its code means, and what to do."""
    page = problems.page(call.name)
    if page is None:
        raise NotFound(f"there is no problem {call.name!r}")
    return Answer(200, None, content=page, media_type=b"text/html; charset=utf-8")
