"""Redis's clock jumps: nobody is served by it, nothing expires by it, nothing comes back to life.

The scripts run in their test build, whose clock is Redis's own and an offset. What the machine's
clock would do besides to keys that live until a moment is done here too: the leases last that much
longer when it jumps back; when it jumps ahead they end at once, and with them the records of what
is over, by a day all of them. They must be there again before anything serves.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from redis.asyncio import Redis

from holdfast.client import AsyncClient
from tests.faults.catalogue import Figures, Row, Run
from tests.faults.keepsake import Keepsake
from tests.faults.place import PATIENCE_S, Place, service
from tests.faults.program import POLL_S
from tests.faults.refusal import assert_refused
from tests.faults.under_load import under_load

_HOUR_MS = 3_600_000
_JUMPS_MS = {
    "+1h": _HOUR_MS,
    "-1h": -_HOUR_MS,
    "+1d": 24 * _HOUR_MS,
    "-1d": -24 * _HOUR_MS,
}
_LEASE_MS = 2_000
_PAGE = 1_000
_ACCOUNT = "due"


async def _run(run: Run) -> Figures:
    jump_ms = _JUMPS_MS[run.variant]
    async with (
        service(run.directory, test_clock=True) as place,
        place.client() as client,
        under_load(run, place) as load,
    ):
        keepsake = await Keepsake.make(client)
        await _make_due(client)
        await load.more(run.rng.randint(50, run.sized(1500, 150)))

        await _after_a_round(place)
        load.note(f"the clock jumps by {jump_ms} ms")
        before = await _jump(place, 0, jump_ms)
        began = time.monotonic()
        store = "lease" if jump_ms > 0 else "clock"
        await assert_refused(client.charge(keepsake.account, 1, key="while-closed"), store)
        await assert_refused(client.commit(keepsake.account, keepsake.hold.id, 1), store)
        await load.refused(run.sized(300, 50))
        await _incidents_of_the_clock(place, is_open=True)
        told_s = time.monotonic() - began
        await assert_refused(client.commit(_ACCOUNT, "over"), store)
        await assert_refused(client.release(_ACCOUNT, "long"), store)
        after = await _jump(place, jump_ms, 0)
        assert after == before, f"entries by a clock that is off: from {before} to {after}"

        load.note("the clock is right again")
        opened_s = await place.open_again()
        await load.more(run.sized(500, 100))
        await keepsake.assert_kept()
        await _assert_as_due(client)
        verdict = await load.judged()
        await _incidents_of_the_clock(place, is_open=False)
        await _assert_rebuilt(place, jump_ms > 0)
        return {
            "incident_within_ms": round(told_s * 1000),
            "reopened_ms": round(opened_s * 1000),
            "acknowledged_calls": verdict.acknowledged,
        }


async def _make_due(client: AsyncClient) -> None:
    """A hold that is over, one that lasts for half an hour, and a grant that does."""
    await client.put_account(_ACCOUNT)
    await client.grant(_ACCOUNT, 1_000, source="promo", key="base")
    soon = datetime.now(UTC) + timedelta(minutes=30)
    await client.grant(_ACCOUNT, 500, source="promo", key="soon", expires_at=soon)
    await client.reserve(_ACCOUNT, 100, key="long", ttl_seconds=1800)
    await client.reserve(_ACCOUNT, 100, key="over", ttl_seconds=1)
    deadline = time.monotonic() + PATIENCE_S
    while (await client.get_hold(_ACCOUNT, "over")).state != "expired":
        assert time.monotonic() < deadline, "a hold of 1 s does not expire"
        await asyncio.sleep(POLL_S)


async def _assert_as_due(client: AsyncClient) -> None:
    """What was over is over, what was not is not."""
    over, long = [await client.get_hold(_ACCOUNT, hold) for hold in ("over", "long")]
    assert (over.state, long.state) == ("expired", "held"), (over, long)
    account = await client.get_account(_ACCOUNT)
    assert account.forfeited == 0 and account.available == 1_400, account
    late = await client.commit(_ACCOUNT, "over")
    assert (late.state, late.committed, late.late) == ("committed", 100, True), late
    taken = await client.commit(_ACCOUNT, "long")
    assert (taken.state, taken.committed, taken.late) == ("committed", 100, False), taken


async def _after_a_round(place: Place) -> None:
    """Wait until every shard was lent its lease anew; the next round is 500 ms away.

    A round that reads TIME before the jump and lends after it finds, in production, a lease that
    is over. The test build moves the scripts' clock alone, so it must not jump there.
    """
    deadline = time.monotonic() + PATIENCE_S
    async with place.redis_client() as client:
        first = [await client.hget(shard.meta, "clock_ms") for shard in place.shards]
        while True:
            now = [await client.hget(shard.meta, "clock_ms") for shard in place.shards]
            if all(new != old for new, old in zip(now, first, strict=True)):
                return
            assert time.monotonic() < deadline, f"no leases were lent\n{place.log_tails()}"
            await asyncio.sleep(POLL_S)


async def _jump(place: Place, from_ms: int, to_ms: int) -> list[Any]:
    """Put the clock off by `to_ms`, where it was `from_ms`; each shard's last entry then."""
    left_ms = max(_LEASE_MS - (to_ms - from_ms), 0)
    async with place.redis_client() as client, client.pipeline(transaction=True) as pipeline:
        for shard in place.shards:
            pipeline.pexpire(shard.lease_new, left_ms)
            pipeline.pexpire(shard.lease_finish, left_ms)
            pipeline.hset(shard.meta, "test_offset_ms", str(to_ms))
        for shard in place.shards:
            pipeline.hget(shard.meta, "seq")
        seqs = (await pipeline.execute())[-len(place.shards) :]
        if to_ms > 0:
            await _end_records(client, to_ms)
        return seqs


async def _end_records(client: Redis, ahead_ms: int) -> None:
    """End what is over by a clock that is ahead. No lease is left, so none is made meanwhile."""
    records = [key async for key in client.scan_iter(match="*:key:*", count=_PAGE)]
    for start in range(0, len(records), _PAGE):
        page = records[start : start + _PAGE]
        async with client.pipeline(transaction=False) as pipeline:
            for key in page:
                pipeline.pttl(key)
            lived = zip(page, await pipeline.execute(), strict=True)
        if over := [key for key, ttl_ms in lived if 0 <= ttl_ms <= ahead_ms]:
            await client.unlink(*over)


async def _assert_rebuilt(place: Place, was_ahead: bool) -> None:
    """Every shard was rebuilt once where records may have gone, and has lost nothing by it."""
    found = [each for each in await place.incidents() if each["kind"] == "rebuild"]
    assert len(found) == (len(place.shards) if was_ahead else 0), found
    assert all(": 0 entries were lost; the clock" in each["summary"] for each in found), found


async def _incidents_of_the_clock(place: Place, *, is_open: bool) -> None:
    """Wait until there are incidents about the clock, all open or all closed; of others there are
    rebuilds alone."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        every = await place.incidents()
        assert {each["kind"] for each in every} <= {"clock", "rebuild"}, every
        found = [each for each in every if each["kind"] == "clock"]
        if found and all((each["closed_at"] is None) is is_open for each in found):
            return
        assert time.monotonic() < deadline, f"incidents are not as they should be: {every}"
        await asyncio.sleep(POLL_S)


ROW = Row(
    name="clock",
    title="Redis's clock jumps under load, and back again",
    expected="closed as long as it is off, with an incident that closes itself; nothing expires by"
    " it, nothing that was over comes back, no key is forgotten",
    run=_run,
    count=20,
    variants=tuple(_JUMPS_MS),
    quick_variants=("+1h", "-1d"),
)
