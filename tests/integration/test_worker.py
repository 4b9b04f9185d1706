"""The worker: what it settles, what it doubts, and that it may die anywhere."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.embedded import Postgres, Valkey
from settlement import journal
from settlement.claims import Claims
from settlement.failures import POSTGRES_FAILURES
from settlement.services import keep
from settlement.state import WorkerState
from settlement.worker import SettleLoop
from tests.stack import Stack
from tests.vetted import other_worker, until

NOTHING = (0, False)


@pytest.fixture
async def stack(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    async with Stack(valkey_server.url, postgres_server.url, shards=2) as one:
        yield one


async def spend(stack: Stack, accounts: int = 6, holds: int = 3) -> int:
    """Some accounts with some holds, reserved and committed; answers how many entries."""
    for number in range(accounts):
        await stack.open(f"account-{number}", grant=1000)
        for hold in range(holds):
            await stack.reserve(f"account-{number}", f"h{hold}", 10)
            await stack.commit(f"account-{number}", f"h{hold}", 7)
    return accounts * (2 + 2 * holds)


async def assert_settled_once(stack: Stack) -> None:
    """The journal has every entry of Redis once, and the accounts stand where Redis has them."""
    for number in range(stack.config.shards):
        meta = await stack.meta(number)
        rows = await stack.rows("journal", shard=number)
        assert [row["seq"] for row in rows] == list(range(1, int(meta.get("seq", 0)) + 1))
        row = await stack.row("shard", id=number)
        assert row is not None
        assert (row["mark"], row["chain"]) == (len(rows), meta.get("chain", ""))
    for account in await stack.rows("account"):
        acct = await stack.acct(account["account"])
        assert (account["version"], account["available"], account["spent"]) == (
            int(acct["version"]),
            int(acct["available"]),
            int(acct.get("spent", 0)),
        )
    assert await stack.rows("quarantine") == []


# --- The settle loop


async def test_a_round_settles_all_shards_and_tells_redis(stack: Stack) -> None:
    entries = await spend(stack)
    loop = SettleLoop(stack.state)

    assert await loop.round() == (entries, False)
    assert await loop.round() == NOTHING

    await assert_settled_once(stack)
    for number in range(2):
        meta = await stack.meta(number)
        assert meta["settled"] == meta["seq"]


async def test_a_round_takes_no_more_than_its_batch(
    valkey_server: Valkey, postgres_server: Postgres
) -> None:
    urls = valkey_server.url, postgres_server.url
    async with Stack(*urls, shards=1, settle_batch=5) as stack:
        entries = await spend(stack, accounts=2, holds=2)
        loop = SettleLoop(stack.state)

        assert await loop.round() == (5, True)
        assert await loop.round() == (5, True)
        assert await loop.round() == (entries - 10, False)
        await assert_settled_once(stack)


async def test_what_redis_was_not_told_it_is_told_later(stack: Stack) -> None:
    await stack.open("acme")
    number = stack.shards.number_of("acme")
    async with stack.pool.acquire() as conn:
        await journal.settle(conn, [await stack.batch(number)])  # and then the worker died

    assert await SettleLoop(stack.state).round() == NOTHING

    assert (await stack.meta(number))["settled"] == "1"


async def test_another_worker_may_have_been_faster(stack: Stack) -> None:
    """Given a worker whose news are old, I expect it to read the rows again and to doubt nobody."""
    entries = await spend(stack)
    loop = SettleLoop(stack.state)
    await loop.round()
    other = SettleLoop(other_state(stack))
    await spend_more(stack)
    settled, _ = await other.round()
    await spend_more(stack)

    results = [await loop.round() for _ in range(4)]

    assert settled > 0
    assert sum(count for count, _ in results) == settled
    assert stack.state.doubts == {}
    assert len(await stack.rows("journal")) == entries + 2 * settled
    await assert_settled_once(stack)


def other_state(stack: Stack) -> WorkerState:
    state = other_worker(stack)
    for row in state.rows:
        row.claimed = True
    return state


async def spend_more(stack: Stack) -> None:
    for number in range(6):
        await stack.grant(f"account-{number}", os.urandom(4).hex(), 5)


async def test_workers_that_settle_the_same_shards_settle_each_entry_once(stack: Stack) -> None:
    entries = await spend(stack)
    loops = [SettleLoop(other_state(stack)) for _ in range(3)]

    async def work(loop: SettleLoop) -> int:
        return sum([(await loop.round())[0] for _ in range(6)])

    assert sum(await asyncio.gather(*map(work, loops))) == entries
    await assert_settled_once(stack)


async def doubts_after(loop: SettleLoop, rounds: int) -> dict[int, str]:
    for _ in range(rounds):
        await loop.round()
    return loop.state.doubts


async def test_what_stands_before_a_gap_is_settled_and_then_the_shard_is_doubted(
    stack: Stack,
) -> None:
    await stack.open("acme", grant=10)
    for place in range(4):
        await stack.grant("acme", f"g{place}", 1)
    number = stack.shards.number_of("acme")
    await stack.command("XDEL", stack.shards.keys[number].stream, "4-0")
    loop = SettleLoop(stack.state)

    assert await loop.round() == (3, True)
    doubts = await doubts_after(loop, 2)

    assert doubts == {number: "entry 4 is missing, 5-0 follows"}
    assert await loop.round() == NOTHING  # until vetting has decided
    assert len(await stack.rows("journal")) == 3


async def test_a_forged_entry_is_never_settled(stack: Stack) -> None:
    await stack.open("acme", grant=10)
    number = stack.shards.number_of("acme")
    stream = stack.shards.keys[number].stream
    ((_, (_, text, _, chain)),) = await stack.command("XRANGE", stream, "2-0", "2-0")
    await stack.command("DEL", stream)
    ((_, fields),) = [(b"", text.replace(b'"10"', b'"99"'))]
    for seq, entry in ((1, b"{}"), (2, fields)):
        await stack.command("XADD", stream, f"{seq}-0", "entry", entry, "chain", chain)

    doubts = await doubts_after(SettleLoop(stack.state), 3)

    assert "does not continue the chain" in doubts[number]
    assert await stack.rows("journal") == []


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("settled", "99", "Redis has settled up to entry 99"),
        ("seq", "0", "Redis ends at entry 0, the journal at 1"),
        ("nonce", "0" * 32, "Redis refuses entries: FENCED"),
    ],
)
async def test_a_meta_that_does_not_fit_is_doubted(
    stack: Stack, field: str, value: str, says: str
) -> None:
    await stack.open("acme")
    number = stack.shards.number_of("acme")
    loop = SettleLoop(stack.state)
    await loop.round()
    await stack.command("HSET", stack.shards.keys[number].meta, field, value)

    assert await doubts_after(loop, 1) == {}  # it may be this worker's news that are old
    doubts = await doubts_after(loop, 1)

    assert list(doubts) == [number]
    assert says in doubts[number]
    assert stack.state.doubted.is_set()


async def test_scripts_that_redis_has_forgotten_are_a_doubt(stack: Stack) -> None:
    await stack.pool.execute("UPDATE shard SET nonce = repeat('0', 32) WHERE id = 1")
    await stack.state.refresh()

    doubts = await doubts_after(SettleLoop(stack.state), 2)

    assert doubts == {1: "Redis does not know the scripts of this generation"}


async def test_a_journal_that_has_other_entries_stops_the_shard(stack: Stack) -> None:
    await stack.open("acme")
    number = stack.shards.number_of("acme")
    batch = await stack.batch(number)
    await stack.pool.execute(
        "INSERT INTO journal (shard, seq, at, account, version, type, available, held, chain,"
        " entry) VALUES ($1, 1, to_timestamp($2), 'x', 1, 'open', 0, 0, '', '{}')",
        *(number, batch.entries[0].at / 1000),
    )

    assert await SettleLoop(stack.state).round() == (0, True)

    row = await stack.row("shard", id=number)
    assert row is not None
    assert row["state"] == "stopped"
    (incident,) = await stack.rows("incident")
    assert (incident["kind"], incident["shard"]) == ("stopped", number)


async def test_a_postgres_that_is_away_costs_nothing(
    valkey_server: Valkey, server_dir: Path
) -> None:
    with Postgres.start(server_dir / "postgres", fsync=False) as postgres:
        async with Stack(valkey_server.url, postgres.url, shards=2) as stack:
            entries = await spend(stack)
            loop = SettleLoop(stack.state)
            postgres.kill()
            for _ in range(3):
                with pytest.raises(POSTGRES_FAILURES):
                    await loop.round()

            await asyncio.to_thread(postgres.restart)

            async def settled() -> bool:
                await loop.round()
                return len(await stack.rows("journal")) == entries

            await until(settled)
            await assert_settled_once(stack)


# --- Services


async def test_a_service_that_fails_is_started_again_and_ends_no_other() -> None:
    starts = {"fails": 0, "returns": 0, "lasts": 0}
    enough = asyncio.Event()

    async def fails() -> None:
        starts["fails"] += 1
        if starts["fails"] == 3:
            enough.set()
        raise RuntimeError("again")

    async def returns() -> None:
        starts["returns"] += 1

    async def lasts() -> None:
        starts["lasts"] += 1
        await asyncio.Event().wait()

    keeping = asyncio.create_task(keep({"fails": fails, "returns": returns, "lasts": lasts}))
    await asyncio.wait_for(enough.wait(), 20)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)

    assert starts["lasts"] == 1
    assert starts["returns"] >= 2


def claimed(state: WorkerState) -> list[int]:
    return [row.number for row in state.claimed()]


async def test_claims_are_shared_out_fairly(
    valkey_server: Valkey, postgres_server: Postgres
) -> None:
    async with Stack(valkey_server.url, postgres_server.url, shards=7, vet=False) as stack:
        states = [other_worker(stack, f"w{place}") for place in range(3)]
        claims = [Claims(state) for state in states]

        await claims[0].round()
        assert claimed(states[0]) == list(range(7))
        for _ in range(4):
            for one in claims:
                await one.round()
        shares = [claimed(state) for state in states]
        assert sorted(map(len, shares)) == [1, 3, 3]
        assert sorted(itertools.chain(*shares)) == list(range(7))

        await claims[1].release()
        assert claimed(states[1]) == []
        for _ in range(2):
            for one in (claims[0], claims[2]):
                await one.round()
        assert sorted(claimed(states[0]) + claimed(states[2])) == list(range(7))


async def test_what_is_given_back_is_worked_on_until_its_next_owner_can_have_found_it(
    valkey_server: Valkey, postgres_server: Postgres
) -> None:
    async with Stack(valkey_server.url, postgres_server.url, shards=4, vet=False) as stack:
        states = [other_worker(stack, name) for name in ("old", "new")]
        old, new = map(Claims, states)
        await old.round()
        await new.round()
        await old.round()
        assert claimed(states[0]) == [0, 1, 2, 3]
        await new.round()
        await old.round()
        assert claimed(states[0]) == [0, 1]
        assert claimed(states[1]) == [2, 3]


async def test_the_claims_of_a_worker_that_died_are_taken_over(
    valkey_server: Valkey, postgres_server: Postgres
) -> None:
    async with Stack(valkey_server.url, postgres_server.url, shards=4, vet=False) as stack:
        dead, alive = (Claims(other_worker(stack, name)) for name in ("dead", "alive"))
        await dead.round()
        await alive.round()
        assert claimed(alive.state) == []
        await stack.pool.execute(
            "UPDATE shard SET claimed_until = claimed_until - interval '1 minute';"
            "UPDATE worker SET seen_at = seen_at - interval '50 s' WHERE id = 'dead'"
        )

        await alive.round()
        assert claimed(alive.state) == [0, 1, 2, 3]
        await dead.round()
        assert claimed(dead.state) == []


async def test_a_worker_that_was_stopped_settles_nothing_of_what_another_one_claims(
    stack: Stack,
) -> None:
    """Given a worker that was stopped until another one had its shards, and settled some more, I
    expect it to be refused once, and then to leave them alone."""
    stopped, heir = (other_worker(stack, name) for name in ("stopped", "heir"))
    await spend(stack)
    await Claims(stopped).round()
    loop = SettleLoop(stopped)
    await loop.round()
    await stack.pool.execute(
        "UPDATE shard SET claimed_until = claimed_until - interval '1 minute'; DELETE FROM worker"
    )
    await Claims(heir).round()
    await spend_more(stack)
    settled, _ = await SettleLoop(heir).round()
    await spend_more(stack)

    assert [await loop.round() for _ in range(3)] == [NOTHING] * 3
    assert settled > 0
    assert claimed(stopped) == []
    assert await SettleLoop(heir).round() == (settled, False)
    await assert_settled_once(stack)


# --- The whole process


class WorkerProcess:
    """`run_worker` in a process of its own."""

    def __init__(self, stack: Stack, **settings: Any) -> None:
        config = stack.config
        self._environment = {
            **os.environ,
            "HOLDFAST_REDIS_URL": config.redis_url or "",
            "HOLDFAST_DATABASE_URL": config.database_url or "",
            "HOLDFAST_PREFIX": config.prefix,
            "HOLDFAST_SHARDS": str(config.shards),
            **{f"HOLDFAST_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "holdfast", "settle"),
            env=self._environment,
            stderr=asyncio.subprocess.PIPE,
        )
        return self._process

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.communicate()


async def opened(stack: Stack) -> None:
    """Wait until every shard is open and leased, and take over their nonces."""

    async def is_open() -> bool:
        await stack.state.refresh(force=True)
        leases = [
            await stack.command("EXISTS", keys.lease_new, keys.lease_finish)
            for keys in stack.shards.keys
        ]
        return all(row.state == "open" for row in stack.state.rows) and leases == [2] * len(leases)

    await until(is_open)


async def settled(stack: Stack) -> None:
    async def done() -> bool:
        metas = [await stack.meta(number) for number in range(stack.config.shards)]
        marks = [row["mark"] for row in await stack.rows("shard")]
        return marks == [int(meta.get("seq", 0)) for meta in metas]

    await until(done)


async def test_a_worker_opens_settles_and_stops(
    valkey_server: Valkey, postgres_server: Postgres
) -> None:
    urls = valkey_server.url, postgres_server.url
    async with Stack(*urls, vet=False, leases=False) as stack:
        async with WorkerProcess(stack, log_level="info") as worker:
            await opened(stack)
            await spend(stack)
            await settled(stack)
            await stack.grant("account-0", "last", 1)
            worker.send_signal(signal.SIGTERM)
            _, errors = await asyncio.wait_for(worker.communicate(), 20)

            assert worker.returncode == 0
            events = [json.loads(line)["event"] for line in errors.splitlines()]
            assert events[0] == "worker_started"
            assert events[-1] == "worker_stopped"
        await assert_settled_once(stack)
        assert await stack.rows("worker") == []
        assert all(row["claimed_by"] == "" for row in await stack.rows("shard"))
