"""Backpressure: what is closed, in which order, when entries wait for Postgres or memory is short.

At the bounds themselves, shown exactly; then with real workers that are slower than the load.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from holdfast import api_keys, scripts
from holdfast.children import free_port
from holdfast.codes import Code
from holdfast.embedded import Postgres, Valkey
from holdfast.survey import BACKLOG_MAX as B1
from holdfast.wire import WireError
from settlement.lease import FULL, Leases
from settlement.rebuild import UNSETTLED_MAX as B2
from tests.commands import assert_reconciled, command
from tests.stack import CONTEXT, HOLD_TTL_MS, Refused, Stack
from tests.vetted import claim, dump, running, until, vet

SLOW = {"settle_batch": 1}
"""A worker that settles some hundred entries a second, whatever comes in."""


async def refusal(call: Awaitable[Any]) -> Code | None:
    """With which code a call is refused; None where it is answered."""
    try:
        await call
    except Refused as refused:
        return refused.code
    return None


# ── the bounds ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def stack(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    async with Stack(valkey_server.url, postgres_server.url, shards=1) as stack:
        await stack.open("acme", grant=10_000)
        for number in range(10):
            await stack.reserve("acme", f"h{number}", 10)
        await stack.charge("acme", "c", 10)
        yield stack


def new_spending(stack: Stack, key: str) -> dict[str, Callable[[], Awaitable[Any]]]:
    return {
        "reserve": lambda: stack.reserve("acme", key, 1),
        "charge": lambda: stack.charge("acme", f"{key}-c", 1),
        "grant": lambda: stack.grant("acme", f"{key}-g", 1),
        "adjust": lambda: stack.adjust("acme", f"{key}-a", 1),
        "extend by an amount": lambda: stack.extend("acme", "h9", add=1, op_key=f"{key}-x"),
    }


def finishing(stack: Stack, key: str) -> dict[str, Callable[[], Awaitable[Any]]]:
    hold = f"h{key}"
    return {
        "extend": lambda: stack.extend("acme", hold, ttl_ms=10**6),
        "partial commit": lambda: stack.commit("acme", hold, 3, final=False, op_key="p"),
        "commit": lambda: stack.commit("acme", hold, 3),
        "release": lambda: stack.release("acme", f"h{int(key) + 1}"),
        "refund": lambda: stack.refund("acme", f"r{key}", "c", 1),
        "settings": lambda: stack.settings("acme", "plan", f"p{key}"),
        "member": lambda: stack.member("acme", "ada", key),
        "open": lambda: stack.open(f"other-{key}"),
        "replay": lambda: stack.reserve("acme", "h9", 10),
    }


def writers() -> set[str]:
    """The scripts that look at the fence, and change money or settings."""
    found = {name for name in scripts.TRANSITIONS if "lib/fence.lua" in scripts.includes(name)}
    return found - {"expire"}  # which the ledger and the sweeper call, not a caller


async def put_backlog(stack: Stack, entries: int) -> None:
    """As if the journal had the rest of them."""
    seq = int((await stack.meta(0))["seq"])
    await stack.command("HSET", stack.shards.keys[0].meta, "settled", seq - entries)


async def test_at_each_bound_it_closes_what_it_says(stack: Stack) -> None:
    """Below B1 all is open; from B1 on new spending is closed and work ends; from B2 on nothing
    changes. What is refused changes nothing, and has used no key."""
    named = {name.split()[0] for name in (*new_spending(stack, "x"), *finishing(stack, "0"))}
    assert named | {"commit"} >= writers()
    assert set(scripts.TRANSITIONS) - {"expire"} == writers()

    for call in new_spending(stack, "open").values():
        await put_backlog(stack, B1 - 1)
        assert await refusal(call()) is None

    await put_backlog(stack, B1)
    before = await dump(stack, b"lease:new", b"lease:finish")
    for name, call in new_spending(stack, "late").items():
        assert await refusal(call()) is Code.BACKLOG, name
    assert await dump(stack, b"lease:new", b"lease:finish") == before
    for backlog, key in ((B1, "0"), (B2 - 1, "2")):
        for name, call in finishing(stack, key).items():
            await put_backlog(stack, backlog)
            assert await refusal(call()) is None, name

    await put_backlog(stack, B2)
    before = await dump(stack, b"lease:new", b"lease:finish")
    for name, call in (new_spending(stack, "late") | finishing(stack, "4")).items():
        assert await refusal(call()) is Code.FULL, name
    assert await dump(stack, b"lease:new", b"lease:finish") == before

    await stack.settle()  # needs no lease, and no room in the backlog
    for call in new_spending(stack, "late").values():
        assert await refusal(call()) is None


# ── a worker that is slower than the load ────────────────────────────────────────────────────────


@asynccontextmanager
async def api(stack: Stack, **settings: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A real API process, and a client that may do everything."""
    port = free_port()
    _, token = await api_keys.create(stack.pool, "test", api_keys.SCOPES, None)
    async with (
        command(stack, "holdfast", "serve", "--port", str(port), **settings),
        httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{port}/v1/accounts/acme",
            headers={"Authorization": f"Bearer {token}"},
            timeout=20,
        ) as client,
    ):

        async def ready() -> bool:
            try:
                answer = await client.get(f"http://127.0.0.1:{port}/readyz")
            except httpx2.TransportError:
                return False
            return answer.status_code == 200

        await until(ready)
        yield client


def held(client: httpx2.AsyncClient, key: str) -> Awaitable[httpx2.Response]:
    return client.post("/holds", json={"amount": 5}, headers={"Idempotency-Key": key})


async def is_vetted(stack: Stack) -> bool:
    """Whether a worker serves; then this test can call the scripts of its generation."""
    await stack.state.refresh(force=True)
    row = stack.state.rows[0]
    return row.state == "open" and bool(await stack.command("EXISTS", *leases_of(stack)))


def leases_of(stack: Stack) -> list[bytes]:
    return stack.shards.keys[0].of_shard()[1:3]


LAPSED = {Code.NO_FINISH, Code.NO_NEW}
"""What a lease answers that was not renewed in time, as on a machine that is busy with others."""


async def charge(stack: Stack, keys: Iterable[int]) -> set[Code]:
    """Charges, all at once; answers the codes of those that were refused."""
    some = [refusal(stack.charge("acme", f"c{key}", 1)) for key in keys]
    return {code for code in await asyncio.gather(*some) if code}


async def beat(stack: Stack, hold: str, count: int, later_ms: int = 0) -> None:
    """So many entries at least, of heartbeats that each move the deadline by a millisecond: sent as
    they are, for nothing else is as quick. `later_ms`: how far earlier ones have moved it."""
    nonce, shard = stack.state.rows[0].nonce, stack.shards.keys[0]
    keys = [*shard.of_account("acme"), shard.record("acme", hold)]
    called = (b"EVALSHA", scripts.names(nonce)["extend"], len(keys), *keys, "acme", CONTEXT)
    made = 0
    while made < count:  # pytest's own time-out ends it where leases are never renewed
        first_ms = HOLD_TTL_MS + later_ms + made
        ttls = range(first_ms, first_ms + 500)
        sent = [stack.wire.send(shard.slot, *called, ttl, "", "", "", hold) for ttl in ttls]
        codes = {Code(reply[0]) for reply in await asyncio.gather(*sent)}
        assert codes <= {Code.OK, Code.NO_FINISH}
        made += 500 if codes == {Code.OK} else 0


async def charge_until(stack: Stack, closed: Code, first: int = 0) -> None:
    """The load: charges, a hundred at a time, until they are refused because of `closed`."""
    start = first
    while True:  # pytest's own time-out, or the closing, ends it
        refusals = await charge(stack, range(start, start + 100))
        assert refusals <= {closed, *LAPSED}
        if closed in refusals:
            return
        start += 0 if refusals else 100
        if refusals:
            await asyncio.sleep(0.02)


async def everything_settled(stack: Stack) -> bool:
    meta = await stack.meta(0)
    row = await stack.row("shard", id=0)
    return row is not None and meta["settled"] == meta["seq"] == str(row["mark"])


async def test_worker_that_is_slower_than_the_load_closes_new_spending_until_it_is_drained(
    valkey_server: Valkey, postgres_server: Postgres
) -> None:
    async with (
        Stack(valkey_server.url, postgres_server.url, shards=1) as stack,
        api(stack, settled_wait_ms=200) as client,
    ):
        await stack.open("acme", grant=10**9)
        assert (await held(client, "h1")).status_code == 201
        await beat(stack, "h1", B1 - 500)
        await stack.stop_leases()
        async with command(stack, "holdfast", "settle", **SLOW) as slow:
            await until(lambda: is_proven(stack))

            await charge_until(stack, Code.BACKLOG, first=B1)
            # The slow worker settles an entry now and then: holds that live on keep it above B1.
            await beat(stack, "h1", 500, later_ms=2 * B1)

            answer = await held(client, "h2")
            assert (answer.status_code, answer.json()["store"]) == (503, "backlog")
            assert answer.json()["retryable"] is True
            assert int(answer.headers["retry-after"]) >= 1
            # 20,000 entries stand before this one: nobody knows yet how safe it is.
            assert await committed(client, "h1") == "unknown"
            slow.kill()
            await slow.wait()
        # As if the claims of the dead had run out: they fence nothing.
        await stack.pool.execute("UPDATE shard SET claimed_until = '-infinity'")
        async with command(stack, "holdfast", "settle"):

            async def opened() -> bool:
                return (await held(client, "h2")).status_code == 201

            await until(opened)
            await until(lambda: everything_settled(stack))
            assert await committed(client, "h1") == "settled"
            assert int((await stack.meta(0))["seq"]) >= B1
            await assert_reconciled(stack)


async def is_proven(stack: Stack) -> bool:
    """Whether a worker has proven that it lives."""
    row = await stack.row("shard", id=0)
    return row is not None and row["proof_at"] is not None


async def committed(client: httpx2.AsyncClient, hold: str) -> str:
    """Commit a hold, and answer how safe that is, after a wait for the journal."""
    wish = {"Holdfast-Durability": "settled"}
    answer = await client.post(f"/holds/{hold}/commit", json={"amount": 3}, headers=wish)
    assert answer.status_code == 200, answer.text
    return answer.json()["durability"]


# ── memory ───────────────────────────────────────────────────────────────────────────────────────


BALLAST = 80 * 2**20


async def memory(stack: Stack) -> dict[str, int]:
    info = (await stack.command("INFO", "memory")).decode()
    pairs = (line.split(":", 1) for line in info.splitlines() if ":" in line)
    return {name: int(value) for name, value in pairs if name in ("used_memory", "maxmemory")}


async def limit_memory(stack: Stack, share: float) -> int:
    """Fill Redis up, and set maxmemory so that this share of it is in use now.

    A load that fills 30 % of maxmemory before the last lease has ended, in 2.5 s, is not what this
    is about: a Redis that small is full before anybody can see it.
    """
    await stack.command("SETRANGE", f"{stack.config.prefix}:ballast", BALLAST, "x")
    most = int((await memory(stack))["used_memory"] / share)
    await stack.command("CONFIG", "SET", "maxmemory", most)
    return most


async def beat_until_closed(stack: Stack, holds: list[str], full: float) -> int:
    """Heartbeats, which leave nothing but their entries, until so much memory is in use and new
    spending is closed; answers how much is."""
    for turn in itertools.count():
        ttl_ms = HOLD_TTL_MS + turn  # a heartbeat that moves nothing has no entry
        beats = [refusal(stack.extend("acme", hold, ttl_ms=ttl_ms)) for hold in holds]
        assert set(await asyncio.gather(*beats)) <= {None, Code.NO_FINISH}
        closed = await refusal(stack.charge("acme", f"c{turn}", 1))
        assert closed in (None, *LAPSED)
        used = (await memory(stack))["used_memory"]
        if closed is Code.NO_NEW and used > full:
            break
    return used


async def is_roomy(stack: Stack) -> bool:
    return await stack.command("EXISTS", stack.shards.keys[0].lease_new) == 1


async def test_memory_closes_new_spending_first_and_trimming_opens_it_again(
    server_dir: Path, postgres_server: Postgres
) -> None:
    """Given a real worker that is slower than the heartbeats of open holds, and a Redis with little
    room, I expect new spending to end, and no heartbeat or commit ever to meet a full Redis."""
    with Valkey.start(server_dir / "valkey") as valkey:
        urls = valkey.url, postgres_server.url
        async with Stack(*urls, shards=1, vet=False, leases=False) as stack:
            async with command(stack, "holdfast", "settle", **SLOW) as slow:
                await until(lambda: is_vetted(stack))
                await stack.open("acme", grant=10**9)
                holds = [f"h{number}" for number in range(300)]
                await asyncio.gather(*(stack.reserve("acme", hold, 10) for hold in holds))
                most = await limit_memory(stack, 0.69)
                await until(lambda: is_roomy(stack))

                assert await beat_until_closed(stack, holds, FULL * most) < 0.9 * most
                for hold in holds:
                    await finished(stack, hold)
                slow.terminate()
                await slow.wait()
            async with command(stack, "holdfast", "settle", stream_retention_s=0):
                await until(lambda: everything_settled(stack))
                await until(lambda: is_roomy(stack))
                await stack.charge("acme", "once-more", 1)
                await until(lambda: everything_settled(stack))
                await assert_reconciled(stack)


async def test_without_postgres_what_was_authorised_fits_into_what_is_left(
    server_dir: Path,
) -> None:
    """Given a Redis near its limit, a load that goes on, and a Postgres that is killed, I expect
    new spending to end for want of a lease, never of memory, and every commit to fit."""
    with (
        Valkey.start(server_dir / "valkey") as valkey,
        Postgres.start(server_dir / "postgres", fsync=False) as postgres,
    ):
        async with Stack(valkey.url, postgres.url, shards=1, vet=False) as stack:
            await claim(stack)
            await vet(stack)
            async with running(Leases(stack.state).run()):
                await until(lambda: is_roomy(stack))
                await stack.open("acme", grant=10**9)
                holds = [f"h{number}" for number in range(300)]
                await asyncio.gather(*(stack.reserve("acme", hold, 10) for hold in holds))
                most = await limit_memory(stack, 0.65)
                await asyncio.to_thread(postgres.kill)

                await charge_until(stack, Code.NO_NEW)

                for hold in holds:
                    await finished(stack, hold)
                assert await refusal(stack.reserve("acme", "late", 1)) in LAPSED
                used = (await memory(stack))["used_memory"]
                assert used < most
                backlog = int((await stack.meta(0))["seq"])
                await asyncio.to_thread(postgres.restart)
                await until(lambda: settles(stack))
                assert len(await stack.rows("journal")) == backlog


async def finished(stack: Stack, hold: str) -> None:
    """A commit; where its lease has just run out, the next round renews it."""

    async def done() -> bool:
        code = await refusal(stack.commit("acme", hold, 3))
        assert code in (None, Code.NO_FINISH)
        return code is None

    await until(done)


async def settles(stack: Stack) -> bool:
    try:
        await stack.settle()
    except WireError:
        return False
    return await everything_settled(stack)
