"""What tests of vetting, leases and upkeep share: waiting, settling, going back, a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from holdfast.codes import Code
from holdfast.embedded import Valkey
from holdfast.wire import WireError
from settlement.journal import ShardBatch, settle
from settlement.reader import verify
from settlement.state import WorkerState
from settlement.vetting import Vetting
from tests.stack import Stack

PATIENCE_S = 30.0  # bounds a wait for what comes sooner, so that a failure ends

Probe = Callable[[], bool] | Callable[[], Awaitable[bool]]


async def until(probe: Probe) -> None:
    """Repeat `probe` until it is true; a store that is away counts as not yet."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(WireError, OSError, asyncpg.PostgresError):
                found = probe()
                if found if isinstance(found, bool) else await found:
                    return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(*services: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Services of a worker while the block runs; one that fails, fails the test."""
    tasks = [asyncio.create_task(service) for service in services]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


async def keep_leases(stack: Stack) -> None:
    """Renew both leases of every open shard, as a worker would; to be `running`."""
    while True:
        # A shard that was declared anew refuses: its next lease is of the next generation.
        with contextlib.suppress(WireError, AssertionError):
            await stack.renew_leases()
        await asyncio.sleep(0.3)


async def vet(stack: Stack, vetting: Vetting | None = None) -> Vetting:
    """Rounds of vetting until its worker finds every shard open or stopped."""
    vetting = vetting or Vetting(stack.state)

    async def decided() -> bool:
        await vetting.round()
        return all(row.state in ("open", "stopped") for row in vetting.state.rows)

    await until(decided)
    return vetting


async def vet_anew(stack: Stack, vetting: Vetting) -> None:
    """Rounds until a generation newer than this worker's has opened or stopped all shards."""
    before = max(row.generation for row in stack.state.rows)

    async def decided() -> bool:
        await vetting.round()
        rows = vetting.state.rows
        return all(row.generation > before and row.state in ("open", "stopped") for row in rows)

    await until(decided)


def other_worker(stack: Stack, name: str = "other") -> WorkerState:
    """A second worker on the same stores, which claims nothing."""
    return WorkerState(stack.pool, stack.shards, stack.config, name)


async def settle_all(stack: Stack, *, tell_redis: bool = True) -> None:
    """Bring every entry of every shard into the journal, as the settle loop does."""
    await stack.state.refresh(force=True)
    for row in stack.state.rows:
        keys = stack.shards.keys[row.number]
        code, rest = await stack.shards.run(
            row.number, "entries", row.nonce, keys.of_shard()[:4], [row.mark, 10_000]
        )
        assert code is Code.OK
        seq, _, found = rest
        reading = verify(row.mark, row.chain, found, seq=seq, limit=10_000)
        assert reading.broken is None, reading.broken
        if reading.entries:
            batch = ShardBatch(row.number, row.generation, row.nonce, row.mark, reading.entries)
            async with stack.pool.acquire() as conn:
                (outcome,) = await settle(conn, [batch])
            assert outcome.error is None
            row.mark, row.chain = outcome.mark, outcome.chain
        row.seq = seq
        if tell_redis:
            await stack.shards.run(row.number, "settled", row.nonce, [keys.meta], [row.mark])
            row.settled = row.mark


async def claim(stack: Stack, worker: str = "test") -> None:
    """Give every shard to a worker, as its claims do."""
    await stack.pool.execute("UPDATE shard SET claimed_by = $1", worker)


async def begin_with_two_holds(stack: Stack, account: str) -> None:
    """Open shards; `account` has 100, a hold h1 that is settled, and a hold h2 that is not."""
    await claim(stack)
    await vet(stack)
    await stack.renew_leases()
    await stack.open(account, grant=100)  # entries 1 and 2
    await stack.reserve(account, "h1", 10)  # 3
    await settle_all(stack)
    await stack.reserve(account, "h2", 20)  # 4


async def shard(stack: Stack, number: int) -> dict[str, Any]:
    """A shard's row in Postgres."""
    return dict(await stack.pool.fetchrow("SELECT * FROM shard WHERE id = $1", number))


async def incidents(stack: Stack, kind: str) -> list[dict[str, Any]]:
    """Incidents of a kind, oldest first."""
    rows = await stack.pool.fetch("SELECT * FROM incident WHERE kind = $1 ORDER BY id", kind)
    return [dict(row) for row in rows]


async def dump(stack: Stack, *but: bytes) -> dict[bytes, bytes]:
    """Every key of the stack with its serialised value, but those that end with one of `but`."""
    names = [key for key in await stack.keys() if not key.endswith(but)]
    return {key: await stack.command("DUMP", key) for key in names}


# Postgres and Redis as they were


class Snapshot:
    """The stack's database as it was, to go back to: a replica that lagged, and was promoted."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._copy = f"{stack.database}_copy"

    async def _between_connections(self, *statements: str) -> None:
        stack = self._stack
        admin = await asyncpg.connect(stack._admin_url)
        try:
            await stack.pool.expire_connections()
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
                stack.database,
            )
            for statement in statements:
                await admin.execute(statement)
        finally:
            await admin.close()

    async def take(self) -> None:
        await self._between_connections(
            f"CREATE DATABASE {self._copy} TEMPLATE {self._stack.database}"
        )

    async def go_back(self) -> None:
        await self._between_connections(
            f"DROP DATABASE {self._stack.database} WITH (FORCE)",
            f"ALTER DATABASE {self._copy} RENAME TO {self._stack.database}",
        )


class Files:
    """The append-only file of a Valkey as it was: a disk restored from a copy."""

    def __init__(self, server: Valkey) -> None:
        self._server = server
        self._there = server.data_dir / "appendonlydir"
        self._copy = server.data_dir / "appendonlydir.copy"

    def take(self) -> None:
        """With appendfsync always, what was answered is in the file."""
        shutil.copytree(self._there, self._copy)

    def go_back(self) -> None:
        """Kill the server, and start it on the copy."""
        self._server.kill()
        shutil.rmtree(self._there)
        self._copy.rename(self._there)
        self._server.restart()


# A cluster


@contextmanager
def cluster_of_two(directory: Path) -> Iterator[list[Valkey]]:
    """Two primaries with half of the slots each, which serve on while the other is away."""
    halves = ((0, 8191), (8192, 16383))
    options = (
        *("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"),
        *("--cluster-node-timeout", "5000", "--cluster-allow-reads-when-down", "yes"),
    )
    with ExitStack() as stack:
        servers = [
            stack.enter_context(Valkey.start(directory / f"node{n}", extra_args=options))
            for n in range(2)
        ]
        clients = [
            stack.enter_context(redis.Redis.from_url(s.url, retry=Retry(NoBackoff(), 0)))
            for s in servers
        ]
        for number, (client, slots) in enumerate(zip(clients, halves, strict=True)):
            ask = client.execute_command
            ask("CLUSTER SET-CONFIG-EPOCH", number + 1)
            ask("CLUSTER ADDSLOTSRANGE", *slots)
            ask("CLUSTER MEET", "127.0.0.1", servers[0].port)
        while not all(_formed(client) for client in clients):
            pass  # a call to each server a turn; pytest's own limit ends it
        yield servers


def _formed(client: redis.Redis) -> bool:
    info = client.execute_command("CLUSTER INFO")
    return bool(info["cluster_state"] == "ok" and info["cluster_size"] == "2")
