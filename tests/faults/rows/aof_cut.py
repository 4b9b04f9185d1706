"""The append-only file is cut at every byte of its last three scripts: never half a script.

Three calls, each of one script, are the last that is written, for the worker is stopped. The state
after each of them is kept. Then a Redis is started on every cut of one of the three, twice
(cuts.py). On one cut more the service itself is started, with a real worker, and once more after
Redis was killed. A variant is the script that is cut; the other two stand around it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from holdfast.client import AsyncClient
from tests.faults.append_only import groups
from tests.faults.catalogue import Figures, Row, Run
from tests.faults.checker import check_journal
from tests.faults.cuts import Original, State, examine, state_of
from tests.faults.place import PATIENCE_S, Place, service
from tests.faults.program import POLL_S

_ACCOUNT = "acme"
# The worker is stopped when a lease has this much left of its 2 s: the third call may have to wait
# for a hold of 1 s to be over.
_LEFT_MS = 1_900

Call = Callable[[AsyncClient], Awaitable[Any]]


async def _expire(client: AsyncClient) -> None:
    """Read a hold until it is over: who reads it first expires it."""
    give_up_at = time.monotonic() + PATIENCE_S
    while (await client.get_hold(_ACCOUNT, "short")).state != "expired":
        assert time.monotonic() < give_up_at, "a hold of 1 s does not expire"
        await asyncio.sleep(POLL_S)


_CALLS: dict[str, Call] = {
    "reserve": lambda c: c.reserve(
        _ACCOUNT, 700, key="new", member="ada", metadata={"model": "some-model"}
    ),
    "commit": lambda c: c.commit(_ACCOUNT, "whole", 300),
    "grant": lambda c: c.grant(
        _ACCOUNT, 50, source="promo", key="late", expires_at=datetime.now(UTC) + timedelta(days=2)
    ),
    "charge": lambda c: c.charge(_ACCOUNT, 120, key="charge", member="ada"),
    "refund": lambda c: c.refund(_ACCOUNT, "taken", 30, key="refund"),
    "increase": lambda c: c.extend(_ACCOUNT, "more", add_amount=90, ttl_seconds=900, key="add"),
    "partial": lambda c: c.commit(_ACCOUNT, "parts", 60, final=False, key="part"),
    "release": lambda c: c.release(_ACCOUNT, "whole", reason="no answer"),
    "expire": _expire,
}
_LAST = (
    ("reserve", "commit", "grant"),
    ("charge", "refund", "increase"),
    ("partial", "release", "expire"),
)
"""What is written last, in one file after the other."""


async def _run(run: Run) -> Figures:
    async with service(run.directory, shards=1, proxied=False) as place, place.client() as client:
        await _prepare(client, run)
        original = await _make(place, client, run)
        await place.workers[0].kill()
        await place.redis.kill()

        lengths = _lengths(original, run)
        cuts = await examine(original, _chosen(original, lengths, run), run.directory)
        await _serve(place, original, run.rng.choice(lengths), restarts=run.sized(2, 1))
        return {"bytes": len(lengths), "cuts": cuts, "starts": 2 * cuts}


def _last(run: Run) -> tuple[str, ...]:
    """The calls of a run."""
    return next(names for names in _LAST if run.variant in names)


async def _prepare(client: AsyncClient, run: Run) -> None:
    """An account that draws on several grants, with holds for every call to be made on them."""
    await client.put_account(_ACCOUNT, overdraft_limit=100)
    await client.put_member(_ACCOUNT, "ada", daily_limit=1_000_000)
    await client.grant(_ACCOUNT, 1_000_000, source="promo", key="base")
    soon = datetime.now(UTC)
    for number in range(3):
        amount, expires_at = run.rng.randint(100, 500), soon + timedelta(hours=1 + number)
        await client.grant(
            _ACCOUNT, amount, source="promo", key=f"grant-{number}", expires_at=expires_at
        )
    for hold in ("whole", "more", "parts"):
        await client.reserve(_ACCOUNT, 400, key=hold, member="ada")
    await client.charge(_ACCOUNT, 80, key="taken", durability="settled")


async def _make(place: Place, client: AsyncClient, run: Run) -> Original:
    """Stop the worker, make the three calls, and keep the file and the state after each."""
    (shard,) = place.shards
    path = place.redis.aof_files()[-1]
    async with place.redis_client() as redis:
        give_up_at = time.monotonic() + PATIENCE_S
        while await redis.pttl(shard.lease_new) < _LEFT_MS:
            assert time.monotonic() < give_up_at, f"no lease\n{place.log_tails()}"
            await asyncio.sleep(POLL_S / 2)
        place.workers[0].pause()
        await client.reserve(_ACCOUNT, 100, key="short", ttl_seconds=1)
        states: list[State] = [await state_of(redis, shard)]
        ends = [path.stat().st_size]
        for name in _last(run):
            await _CALLS[name](client)
            states.append(await state_of(redis, shard))
            ends.append(path.stat().st_size)
    file = path.read_bytes()
    scripts = [end for end, _ in groups(file) if end > ends[0]]
    assert scripts == ends[1:], f"not one script a call: {scripts}, {ends}"
    seqs = [int(state[shard.meta][1][b"seq"]) for state in states]
    assert seqs == list(range(seqs[0], seqs[0] + 4)), f"not one entry a call: {seqs}"
    kept = run.directory / "kept"
    place.redis.keep_aof(kept)
    return Original(kept, path.name, shard, _ACCOUNT, ends, states)


def _lengths(original: Original, run: Run) -> range:
    """From the byte before which the script begins, to where it is whole; all three if quick."""
    if run.quick:
        return range(original.ends[0], original.ends[-1] + 1)
    place = _last(run).index(run.variant)
    return range(original.ends[place], original.ends[place + 1] + 1)


def _chosen(original: Original, lengths: range, run: Run) -> list[int]:
    """All of them; in a quick run a few, and those around the ends of scripts."""
    if not run.quick:
        return list(lengths)
    around = {end + off for end in original.ends for off in (-1, 0, 1)} & set(lengths)
    return sorted(around | set(run.rng.sample(lengths, 15)))


async def _serve(place: Place, original: Original, length: int, restarts: int) -> None:
    """Have the service vet and serve such a file, and kill Redis and start it again after it."""
    worker = place.workers[0]
    await worker.kill()
    await place.redis.kill()
    original.put(place.redis, length)
    await place.redis.start()
    await worker.start()
    whole = original.states[original.scripts_in(length)]
    for restart in range(restarts):
        if restart:
            await place.redis.kill()
            await place.redis.start()
        await place.open_again()
        where = f"cut at byte {length}, {original.scripts_in(length)} scripts are whole"
        async with place.redis_client() as client:
            found = await state_of(client, original.shard)
        _, entries = found[original.shard.stream]
        _, wanted = whole[original.shard.stream]
        assert entries[: len(wanted)] == wanted, f"{where}: {entries}"
        report = await place.reconcile()
        assert report["exit_code"] == 0, f"{where}: {report}"
    incidents = await place.incidents()
    assert not incidents, f"{where}, which loses nothing that was settled: {incidents}"
    (await check_journal(place)).assert_clean()


ROW = Row(
    name="aof-cut",
    title="the append-only file is cut at every byte of its last three scripts, and Redis started"
    " twice on each cut",
    expected="the state after a whole number of scripts, to the last field, at both starts, and"
    " served when it is vetted",
    run=_run,
    count=1,
    variants=tuple(_CALLS),
    quick_variants=("commit",),
    limit_s=1_200.0,
    asked="every byte",
)
