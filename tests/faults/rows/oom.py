"""Redis's memory fills up: what is new is refused first, then everything is, and nothing is half.

The load itself takes memory over 70 % of `maxmemory`, where new spending ends and what is held can
still be finished. Then the limit falls below what is used, as if somebody else had filled it: every
write is refused. When there is room again the service opens by itself.

A key of 16 MB stands in for the data of a Redis that has served for long: of the little that a
fresh one uses, 30 % would be gone before the last lease for new spending is over.
"""

from __future__ import annotations

import time
from typing import Any

from holdfast.client import AsyncClient
from tests.faults.catalogue import Figures, Row, Run
from tests.faults.place import Place, service
from tests.faults.refusal import assert_refused, until_refused
from tests.faults.under_load import under_load

_ACCOUNT = "finisher"
_HOLDS = 3
_BALLAST = 16 * 1024**2
# Above this share of `maxmemory` nothing new is taken on.
_FULL = 0.7


async def _run(run: Run) -> Figures:
    async with (
        service(run.directory) as place,
        place.client() as client,
        under_load(run, place) as load,
    ):
        await _reserve(client)
        await load.more(run.rng.randint(50, run.sized(1500, 150)))

        load.note("maxmemory is near")
        await place.redis.command("SETRANGE", "ballast", _BALLAST, "x")
        await _limit(place, _FULL, room=run.sized(1024, 100) * 1024)
        began, decided = time.monotonic(), load.load.decided
        await until_refused(lambda: client.charge(_ACCOUNT, 1), "lease")
        closed_s, filled = time.monotonic() - began, load.load.decided - decided
        # Clearly above it, so that a buffer which is freed does not open it again.
        await _limit(place, _FULL + 0.1)
        await _finish(client, "hold-0")
        await assert_refused(client.reserve(_ACCOUNT, 1), "lease")

        load.note("maxmemory is reached")
        await _limit(place, run.rng.uniform(1.05, 2.0))
        await until_refused(lambda: client.extend(_ACCOUNT, "hold-1", ttl_seconds=60), "redis")
        before = await _numbers(place)
        await load.refused(run.sized(300, 50))
        await assert_refused(client.commit(_ACCOUNT, "hold-1", 10), "redis")
        await assert_refused(client.release(_ACCOUNT, "hold-2"), "redis")
        assert await _numbers(place) == before, "a full Redis has taken entries"

        load.note("there is room")
        await place.redis.command("CONFIG", "SET", "maxmemory", 256 * 1024**2)
        opened_s = await place.open_again()
        await _finish(client, "hold-1")
        await _finish(client, "hold-2")
        await load.more(run.sized(500, 100))
        verdict = await load.judged()
        incidents = await place.incidents()
        assert not incidents, f"nothing was lost, yet there are incidents: {incidents}"
        return {
            "closed_to_new_after_ms": round(closed_s * 1000),
            "closed_to_new_after_calls": filled,
            "reopened_ms": round(opened_s * 1000),
            "acknowledged_calls": verdict.acknowledged,
        }


async def _reserve(client: AsyncClient) -> None:
    await client.put_account(_ACCOUNT)
    await client.grant(_ACCOUNT, 1_000, source="promo", key="opening")
    for number in range(_HOLDS):
        await client.reserve(_ACCOUNT, 100, key=f"hold-{number}")


async def _finish(client: AsyncClient, hold: str) -> None:
    """Commit a hold, which must be as it was made."""
    taken = await client.commit(_ACCOUNT, hold, 10)
    assert (taken.state, taken.committed, taken.replayed) == ("committed", 10, False), taken


async def _limit(place: Place, share: float, room: int = 0) -> None:
    """Set `maxmemory` so that this share of it is used when `room` more bytes are."""
    async with place.redis_client() as client:
        memory = (await client.info("memory"))["used_memory"]
        await client.config_set("maxmemory", int((memory + room) / share))


async def _numbers(place: Place) -> list[Any]:
    """The number of the last entry of each shard."""
    async with place.redis_client() as client:
        return [await client.hget(shard.meta, "seq") for shard in place.shards]


ROW = Row(
    name="oom",
    title="maxmemory is reached under load",
    expected="no new spending above 70 %, while holds can be finished; at 100 % 503 for all, and"
    " nothing half done; opens by itself when there is room",
    run=_run,
    count=20,
)
