"""Redis fails over to a replica and back to the same process, which has kept its scripts.

there-and-back: the replica is vetted and serves, the old primary follows it and is promoted again.
Each time the new primary is closed until it was vetted, under another generation; an API that slept
through both knows only the first one, and so do the scripts that the old primary still has.

inside-2-s: it goes so fast that the old primary comes back with the leases of its own generation.
It has become a copy of the replica meanwhile: it has forgotten what it had acknowledged, and gives
the same numbers to other entries, until the next look at it finds that it runs as another boot.
That is the one case in which something is served by a Redis that was not vetted; of whatever the
journal had already settled an incident tells, and no entry of it is overwritten.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from holdfast import scripts
from holdfast.client import AsyncClient
from holdfast.codes import Code
from holdfast.keys import shard_of
from tests.faults.catalogue import Figures, Row, Run
from tests.faults.keepsake import Keepsake
from tests.faults.outpost import outpost
from tests.faults.place import PATIENCE_S, Place, RedisNode, service
from tests.faults.program import HOST, POLL_S
from tests.faults.proxy import Rule
from tests.faults.refusal import until_refused
from tests.faults.tail import (
    Found,
    assert_told,
    demoted,
    kept_aside,
    last_numbers,
    lost_calls,
    lost_of,
)
from tests.faults.under_load import Background, under_load, vetted_anew


async def _run(run: Run) -> Figures:
    return await (_there_and_back if run.variant == "there-and-back" else _inside_2_s)(run)


# ── With a vetting in between ────────────────────────────────────────────────────────────────────


async def _there_and_back(run: Run) -> Figures:
    async with (
        service(run.directory, replicas=1, seed=run.seed) as place,
        outpost(place) as there,
        place.client() as client,
        AsyncClient(there.api.url, place.key, retries=0) as sleeper,
        under_load(run, place) as load,
    ):
        old, (replica,) = place.redis, place.replicas
        keepsake = await Keepsake.make(client)
        accounts = [_account_of(number, len(place.shards)) for number in range(len(place.shards))]
        for account in accounts:
            await sleeper.put_account(account)
            await sleeper.grant(account, 10, key="funds", durability="settled")
        await replica.followed(old)
        there.api.pause()
        rows = [await place.shard_rows()]
        closed_s, lives, incidents = [], [], []
        for source, target in ((old, replica), (replica, old)):
            await load.more(run.rng.randint(50, run.sized(600, 100)))
            if run.rng.random() < 0.5:
                lag = place.proxies["replica-redis"].rule = Rule("half-open")
                await load.until(lag.struck.is_set, "the replica lags")
                await load.more(run.rng.randint(10, run.sized(300, 60)))
            known = len(await place.incidents())
            place.workers[0].pause()  # nobody vets it: it must be closed by itself
            began = time.monotonic()
            await target.promote()
            load.note("another Redis is the primary")
            place.turn_to(target)
            await until_refused(lambda: client.charge(keepsake.account, 1, key="early"), "fenced")
            hop = place.proxies["replica-redis"]
            hop.rule, hop.target = Rule(), target.address
            lives.append(await demoted(source, place, (HOST, hop.port)))
            await source.followed(target)
            await _assert_over(target, place, rows[0], knows_scripts=target is old)
            place.workers[0].resume()
            await vetted_anew(place, rows[-1])
            closed_s.append(time.monotonic() - began)
            rows.append(await place.shard_rows())
            incidents.append((await place.incidents())[known:])

        _assert_anew(rows)
        await _assert_over(old, place, rows[0], knows_scripts=True)
        there.api.resume()
        for account in accounts:
            await until_refused(partial(sleeper.charge, account, 1, key="woken"), "fenced")
        await load.more(run.sized(300, 60))
        for account in accounts:
            done = await client.charge(account, 1, key="woken")
            assert (done.replayed, done.available) == (False, 9), f"it was charged: {done}"
        await keepsake.assert_kept()
        figures = await _judged(load, lives, incidents)
        return {"closed_ms": round(max(closed_s) * 1000), **figures}


def _account_of(shard: int, shards: int) -> str:
    names = (f"sleeper-{number}" for number in range(1_000))
    return next(name for name in names if shard_of(name, shards) == shard)


def _assert_anew(rows: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """Every vetting began a generation of its own in every shard, and wrote down another boot."""
    for lives in zip(*rows, strict=True):
        generations = [row["generation"] for row in lives]
        assert generations == sorted(set(generations)), f"a generation came back: {generations}"
        for name in ("nonce", "boot_replid"):
            words = [row[name] for row in lives]
            assert len(set(words)) == len(words), f"{name} came back: {words}"
        assert lives[0]["boot_run_id"] == lives[-1]["boot_run_id"], "it is another process"


async def _assert_over(
    node: RedisNode, place: Place, rows: Sequence[Mapping[str, Any]], *, knows_scripts: bool
) -> None:
    """No script of the generation of these rows does anything on a node, whether it has them."""
    async with node.client() as client:
        time_s, _ = await client.time()
        info = await client.info()
        for row, shard in zip(rows, place.shards, strict=True):
            names = scripts.names(row["nonce"])
            there = await client.script_exists(*names.values())
            assert set(there) == {knows_scripts}, f"scripts of {row}: {there}"
            if not knows_scripts:
                continue
            keys = shard.of_shard()[:4]
            lease = [time_s * 1000, info["run_id"], info["master_replid"], 1, time_s * 1000]
            for name, args in (("lease", lease), ("entries", [0, 10]), ("trim", [1, 10])):
                reply = await client.evalsha(names[name], len(keys), *keys, *args)
                assert reply[0] == Code.FENCED, f"{name} of an old generation answers {reply}"


async def _judged(
    load: Background,
    lives: Sequence[Sequence[Sequence[Found]]],
    incidents: Sequence[Sequence[Mapping[str, Any]]],
    aside: Sequence[Sequence[Found]] = (),
) -> Figures:
    """What each life of Redis lost is what it had beyond the journal, and no more is missing.

    `aside` is what the last one had made before it was found out.
    """
    place = load.place
    verdict = await load.judged(allow_lost=True, reported=False)
    lost = [await lost_of(place, had) for had in lives]
    known = [
        sum(assert_told(told, gone, aside=aside).values())
        for told, gone in zip(incidents, lost, strict=True)
    ]
    parts = [*lost, aside] if aside else lost
    gone = [[entry for part in of_shard for entry in part] for of_shard in zip(*parts, strict=True)]
    assert dict(verdict.lost_by_shard) == await lost_calls(place, gone, load.history)
    report = await place.reconcile()
    assert report["exit_code"] == 0, report
    return {
        "lost_entries": sum(map(len, gone)),
        "lost_entries_known_of": sum(known),
        "lost_calls": verdict.lost,
        "acknowledged_calls": verdict.acknowledged,
    }


# ── Faster than a lease ends ─────────────────────────────────────────────────────────────────────


async def _inside_2_s(run: Run) -> Figures:
    async with (
        # With a replica asked for, as doctor does, a primary that came back alone would be closed.
        service(run.directory, replicas=1, min_replicas_to_write=0, seed=run.seed) as place,
        place.client() as client,
        under_load(run, place) as load,
    ):
        old, (replica,), worker = place.redis, place.replicas, place.workers[0]
        keepsake = await Keepsake.make(client)
        await load.more(run.rng.randint(50, run.sized(600, 100)))
        before = await place.shard_rows()
        await replica.followed(old)
        await _new_lease(place)
        lag = place.proxies["replica-redis"].rule = Rule("half-open")
        await load.until(lag.struck.is_set, "the replica lags")
        await _journal_ahead(place, replica)
        if asleep := run.rng.random() < 0.5:
            worker.pause()
        began = time.monotonic()
        await replica.promote()
        if run.rng.random() < 0.5:
            place.turn_to(replica, "api-redis", "worker-redis")
        had = await demoted(old, place, replica)
        await old.followed(replica)
        bases = await last_numbers(old, place)
        load.note("back to the old primary")
        await old.promote()
        place.turn_to(old)
        left_ms, unvetted = await _unvetted(place, before, bases)
        if asleep:
            worker.resume()
        await vetted_anew(place, before)
        closed_s = time.monotonic() - began

        await load.more(run.sized(300, 60))
        await keepsake.assert_kept()
        _assert_anew([before, await place.shard_rows()])
        incidents = await place.incidents()
        figures = await _judged(load, [had], [incidents], await kept_aside(place))
        await _assert_stands(place, had, bases, incidents)
        return {
            "closed_ms": round(closed_s * 1000),
            "lease_left_ms": left_ms,
            "unvetted_entries": unvetted,
            **figures,
        }


async def _new_lease(place: Place) -> None:
    """Wait until leases are lent anew: they last for 2 s, the time there is."""
    meta = place.shards[0].meta
    deadline = time.monotonic() + PATIENCE_S
    async with place.redis_client() as client:
        was = await client.hget(meta, "clock_ms")
        while await client.hget(meta, "clock_ms") == was:
            assert time.monotonic() < deadline, f"no leases are lent\n{place.log_tails()}"
            await asyncio.sleep(POLL_S)


async def _journal_ahead(place: Place, replica: RedisNode) -> None:
    """Wait until some shard has settled what the replica has not got."""
    deadline = time.monotonic() + PATIENCE_S
    numbers = await last_numbers(replica, place)
    while not any(row["mark"] > numbers[row["id"]] for row in await place.shard_rows()):
        assert time.monotonic() < deadline, f"nothing is settled\n{place.log_tails()}"
        await asyncio.sleep(POLL_S)


async def _unvetted(
    place: Place, before: Sequence[Mapping[str, Any]], bases: Sequence[int]
) -> tuple[int, int]:
    """Wait until the generation that was has served once more, or cannot any longer.

    Answers how long its leases lasted yet, in ms, and how many entries it has made.
    """
    left_ms = 0
    async with place.redis_client() as client:
        while True:  # a lease that nobody renews ends within 2 s
            open_ms = entries = 0
            for row, shard, base in zip(before, place.shards, bases, strict=True):
                nonce, seq = await client.hmget(shard.meta, "nonce", "seq")
                if nonce == row["nonce"].encode():
                    entries += int(seq) - base
                    open_ms = max(open_ms, await client.pttl(shard.lease_new))
            left_ms = max(left_ms, open_ms)
            if entries or open_ms <= 0:
                return left_ms, entries


async def _assert_stands(
    place: Place,
    had: Sequence[Sequence[Found]],
    bases: Sequence[int],
    incidents: Sequence[Mapping[str, Any]],
) -> None:
    """What had been settled before is in the journal still; where that is more than came back, the
    shard was rebuilt from it."""
    lost = await lost_of(place, had)
    settled = [len(entries) - len(gone) for entries, gone in zip(had, lost, strict=True)]
    ahead = {n for n, (mark, base) in enumerate(zip(settled, bases, strict=True)) if mark > base}
    rebuilt = {each["shard"] for each in incidents if each["kind"] == "rebuild"}
    # More where the second failover came while a rebuild after the first one was under way.
    assert ahead and ahead <= rebuilt, f"the journal is ahead in {ahead}, rebuilt are {rebuilt}"


ROW = Row(
    name="failback",
    title="failover to a replica and back to the same process, at leisure or within 2 s",
    expected="vetted anew each time: generation and nonce rise, no call of an old generation"
    " succeeds; what was served within the 2 s is found out, and an incident tells what is lost",
    run=_run,
    count=20,
    variants=("there-and-back", "inside-2-s"),
    # The one that leases cannot see; the row of a promotion is half of the other.
    quick_variants=("inside-2-s",),
)
