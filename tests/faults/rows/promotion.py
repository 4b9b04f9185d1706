"""A replica that lags is promoted, while the old primary lives on with an API of its own.

Nobody tells the old primary. New spending on it ends with the lease that it has, 2 s later at most,
and before the new one begins. So does what it may finish, unless it has kept a worker too, which
has lost Postgres: that one lets it finish until the grace that it was given is over.

What the old primary acknowledged and the replica never got is lost, but for what was settled. As it
lives it can be asked what that is: the checker and the incidents must come to the same. In half of
the runs the journal keeps up, so that it is ahead of the replica, which is rebuilt. In the others
settling stands still: the replica is adopted as it is, without the tail that a worker had seen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from holdfast.client import AsyncClient, StoreUnavailable
from tests.faults.catalogue import Figures, Row, Run
from tests.faults.keepsake import Keepsake
from tests.faults.outpost import Outpost, outpost
from tests.faults.place import PATIENCE_S, Place, RedisNode, service
from tests.faults.program import POLL_S
from tests.faults.proxy import Rule
from tests.faults.refusal import until_refused
from tests.faults.tail import Found, assert_told, entries_of, last_numbers, lost_calls, lost_of
from tests.faults.under_load import under_load, vetted_anew

_LEASE_MS = 2_000
_GRACE_S = 2


async def _run(run: Run) -> Figures:
    kept_worker, keeps_up = run.seed % 2 == 0, run.rng.random() < 0.5
    async with (
        service(
            run.directory, replicas=1, settings={"finish_grace_s": str(_GRACE_S)}, seed=run.seed
        ) as place,
        outpost(place, worker=kept_worker) as there,
        place.client(retries=8) as client,
        under_load(run, place) as load,
        there.clients(load, run.sized(12, 4)) as old_load,
        there.clients(load, run.sized(6, 2), durability="settled") as waiting,
    ):
        old, (replica,) = place.redis, place.replicas
        keepsake = await Keepsake.make(client)
        await load.more(run.rng.randint(50, run.sized(600, 150)))
        before = await place.shard_rows()
        async with _settling(place, stands_still=not keeps_up):
            lag = place.proxies["replica-redis"].rule = Rule("half-open")
            await load.until(lag.struck.is_set, "the replica lags")
            await load.more(run.rng.randint(20, run.sized(400, 100)))
            seen = await _seen(place)
            # With its worker paused nobody can vet the new one: it must be closed by itself.
            place.workers[0].pause()
            if kept_worker:
                there.lose_postgres(run.rng.choice(("refuse", "half-open")))
            await replica.promote()
            load.note("another Redis is the primary")
            place.turn_to(replica)
            turned_ms = await _clock_ms(old)
            await until_refused(lambda: client.charge(keepsake.account, 1, key="early"), "fenced")
        place.workers[0].resume()
        closed_s = await vetted_anew(place, before)
        await load.more(run.sized(300, 60))
        await _closed(place, old, there, keepsake)
        await asyncio.gather(old_load.end(), waiting.end())

        await keepsake.assert_kept()
        verdict = await load.judged(allow_lost=True, reported=False)
        had = await entries_of(old, place)
        lost = await lost_of(place, had)
        assert dict(verdict.lost_by_shard) == await lost_calls(place, lost, load.history)
        told = assert_told(await place.incidents(), lost, seen=seen)
        ended = await _ended(place, old, had, turned_ms, kept_worker=kept_worker)
        _assert_one_at_a_time(had, lost, await entries_of(replica, place))
        report = await place.reconcile()
        assert report["exit_code"] == 0, report
        answers = [each.answer.get("durability") for each in load.history.operations]
        return {
            "closed_ms": round(closed_s * 1000),
            "old_took_new_ms": ended.new_ms,
            f"old_finished_{'with' if kept_worker else 'without'}_worker_ms": ended.finished_ms,
            "lost_entries": sum(map(len, lost)),
            "lost_entries_known_of": sum(told.values()),
            "lost_calls": verdict.lost,
            "waits_settled": answers.count("settled"),
            "waits_unknown": answers.count("unknown"),
            "acknowledged_calls": verdict.acknowledged,
        }


@asynccontextmanager
async def _settling(place: Place, *, stands_still: bool) -> AsyncIterator[None]:
    """As ever; or nothing reaches the journal while the block runs, though workers prove that they
    live. What is on its way by then does not reach it afterwards either."""
    if not stands_still:
        yield
        return
    async with place.postgres_connection() as connection, connection.transaction():
        await connection.execute("LOCK TABLE journal IN SHARE MODE")
        # The replica has what is settled.
        await place.replicas[0].followed(place.redis)
        yield
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )


async def _seen(place: Place) -> list[int]:
    """The number of an entry of each shard that the place's worker has seen; 0 where another one
    claims it. Two rounds of leases are waited for: the first one's answers are in by the second."""
    numbers = await last_numbers(place.redis, place)
    deadline = time.monotonic() + PATIENCE_S
    async with place.redis_client() as client:
        rounds: list[set[Any]] = [set() for _ in place.shards]
        while not all(len(values) > 2 for values in rounds):
            for values, shard in zip(rounds, place.shards, strict=True):
                values.add(await client.hget(shard.meta, "clock_ms"))
            assert time.monotonic() < deadline, f"no leases were lent\n{place.log_tails()}"
            await asyncio.sleep(POLL_S)
    mine = f"-{place.workers[0].pid}-"
    rows = await place.shard_rows()
    return [numbers[row["id"]] if mine in row["claimed_by"] else 0 for row in rows]


async def _clock_ms(node: RedisNode) -> int:
    seconds, micros = await node.command("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


async def _closed(place: Place, old: RedisNode, there: Outpost, keepsake: Keepsake) -> None:
    """Wait until the old primary has no lease any more: its clients are refused, whatever they
    ask for."""
    deadline = time.monotonic() + PATIENCE_S
    leases = [key for shard in place.shards for key in (shard.lease_new, shard.lease_finish)]
    async with old.client() as client:
        while await client.exists(*leases):
            assert time.monotonic() < deadline, "the old primary's leases do not end"
            await asyncio.sleep(POLL_S)
    async with AsyncClient(there.api.url, place.key, retries=0) as client:
        account, hold = keepsake.account, keepsake.hold.id
        await _refused(client.charge(account, 1, key="late"))
        await _refused(client.commit(account, hold, 1))
        await _refused(client.reserve(account, 50_000, key=hold))  # a replay


async def _refused(call: Awaitable[Any]) -> None:
    """For want of a lease or, after a while, of a replica (`min-replicas-to-write`)."""
    try:
        answer = await call
    except StoreUnavailable as refusal:
        assert refusal.problem["store"] in ("lease", "redis"), refusal.problem
    else:
        raise AssertionError(f"an old primary without a lease answers {answer}")


class _Ended(NamedTuple):
    """How long the old primary took on and finished work, from when all others had left it."""

    new_ms: int
    finished_ms: int


async def _ended(
    place: Place,
    old: RedisNode,
    had: Sequence[Sequence[Found]],
    turned_ms: int,
    *,
    kept_worker: bool,
) -> _Ended:
    """When that ended, by the old primary's own clock: within its leases in every shard."""
    ended = _Ended(0, 0)
    async with old.client() as client:
        for shard, entries in zip(place.shards, had, strict=True):
            new = max((entry.at_ms for entry in entries if entry.spends), default=0)
            finished = max((entry.at_ms for entry in entries), default=0)
            assert new <= turned_ms + _LEASE_MS, f"{new - turned_ms} ms after: {entries[-1]}"
            end_ms = turned_ms + _LEASE_MS
            if kept_worker:
                proof_ms = int(await client.hget(shard.meta, "proof_ms") or 0)
                end_ms = max(end_ms, proof_ms + _GRACE_S * 1000 + _LEASE_MS)
            assert finished <= end_ms, f"{finished - end_ms} ms too late: {entries[-1]}"
            ended = _Ended(
                max(ended.new_ms, new - turned_ms), max(ended.finished_ms, finished - turned_ms)
            )
    return ended


def _assert_one_at_a_time(
    had: Sequence[Sequence[Found]],
    lost: Sequence[Sequence[Found]],
    has: Sequence[Sequence[Found]],
) -> None:
    """The new primary takes on nothing before the old one has ended to do so, in any shard."""
    for number, (old, gone, new) in enumerate(zip(had, lost, has, strict=True)):
        last = max((entry.at_ms for entry in old if entry.spends), default=0)
        shared = len(old) - len(gone)
        fresh = [entry.at_ms for entry in new if entry.seq > shared and entry.spends]
        assert not fresh or min(fresh) > last, f"shard {number}: two primaries spend at once"


ROW = Row(
    name="promotion",
    title="a replica that lags is promoted, while the old primary lives on with clients of its own",
    expected="new spending on the old one ends with its lease (2 s) and before the new one begins,"
    " finishing within its window; what is lost is what the old one has beyond the journal, entry"
    " by entry, and what a worker had seen of it is in an incident; nothing settled is lost",
    run=_run,
    count=50,
)
