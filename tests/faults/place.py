"""One whole service, every part of which a test can break.

    async with service(directory) as place:
        await place.redis.kill()
        await place.redis.start()
        await place.open_again()

Parts: `redis` (the primary; `replicas` beside it), `postgres`, `apis`, `workers`; and, on each hop
between them, a proxy: `api-redis`, `worker-redis`, `api-postgres`, `worker-postgres`, and with
replicas `replica-redis`, from a replica to its primary. What this module asks of the stores itself
goes past the proxies.

All parts die with the block. The stores' data is deleted at its end, unless it fails: then
everything stays for whoever looks; logs stay always.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
from redis.asyncio import Redis
from redis.exceptions import RedisError

from holdfast import staging
from holdfast.children import free_port
from holdfast.client import AsyncClient
from holdfast.keys import ShardKeys
from tests.faults.postgres_node import PostgresNode
from tests.faults.program import HOLDFAST, HOST, PATIENCE_S, POLL_S, Ended, Program, together
from tests.faults.proxy import FaultProxy
from tests.faults.redis_node import RedisNode

__all__ = ["PATIENCE_S", "Ended", "Place", "PostgresNode", "Program", "RedisNode", "service"]

HOPS = ("api-redis", "worker-redis", "api-postgres", "worker-postgres")
_NEVER = datetime.min.replace(tzinfo=UTC)
_COMMAND_S = 60.0  # a reconcile of a long run takes seconds
# Of what a program that is not named in a failure said last, a few lines will do.
_TAIL_CHARACTERS = 1500


class Place:
    """The parts of one service; `service` makes, starts and ends them."""

    def __init__(
        self,
        directory: Path,
        redis: RedisNode,
        replicas: Sequence[RedisNode],
        postgres: PostgresNode,
        settings: Mapping[str, str],
        seed: int = 0,
    ) -> None:
        self.directory = directory
        self.redis = redis
        self.replicas = list(replicas)
        self.postgres = postgres
        self.settings = dict(settings)
        """What every program is told, by the names that `holdfast.config` has."""
        self.proxies: dict[str, FaultProxy] = {}
        self.apis: list[Program] = []
        self.workers: list[Program] = []
        self._nodes = [redis, *replicas]
        self._seed = seed

    # Where things are

    @property
    def temporary(self) -> Path:
        return self.directory / "tmp"

    @property
    def url(self) -> str:
        """The first API."""
        return self.apis[0].url

    @property
    def urls(self) -> list[str]:
        return [api.url for api in self.apis]

    @property
    def key(self) -> str:
        """An API key with every scope."""
        return self.postgres.key

    @property
    def shards(self) -> list[ShardKeys]:
        """The names of every shard's keys in Redis."""
        prefix, count = self.postgres.prefix, self.postgres.shards
        return [ShardKeys(prefix, number) for number in range(count)]

    def environment(self, part: str = "", **settings: str) -> dict[str, str]:
        """What a program is told; as a `part` (`api`, `worker`) it goes through that part's
        proxies."""
        hops = self.proxies
        redis = hops.get(f"{part}-redis")
        postgres = hops.get(f"{part}-postgres")
        told = {
            "redis_url": f"redis://{HOST}:{redis.port}/0" if redis else self.redis.url,
            "database_url": self.postgres.dsn_at(postgres.port) if postgres else self.postgres.dsn,
            "prefix": self.postgres.prefix,
            "shards": str(self.postgres.shards),
            "data": str(self.directory),
            **self.settings,
            **settings,
        }
        others = ("REDIS_URL", "DATABASE_URL")
        rest = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("HOLDFAST_") and name not in others
        }
        rest["TMPDIR"] = str(self.temporary)  # where a killed one leaves what it made
        return rest | {_variable(name): value for name, value in told.items()}

    # Programs

    async def add_worker(self, **settings: str) -> Program:
        """Start one more worker, with settings of its own (`test_failpoint="insert:3"`)."""
        name = f"worker-{len(self.workers)}"
        env = self.environment("worker", **settings)
        worker = Program(name, ("settle",), directory=self.directory, env=env)
        self.workers.append(worker)
        await worker.start()
        return worker

    async def add_api(self, **settings: str) -> Program:
        """Start one more API, with settings of its own."""
        port = free_port()
        api = Program(
            f"api-{len(self.apis)}",
            ("serve", "--host", HOST, "--port", str(port)),
            directory=self.directory,
            env=self.environment("api", **settings),
            url=f"http://{HOST}:{port}",
        )
        self.apis.append(api)
        await api.start()
        return api

    async def run(self, *arguments: str, **settings: str) -> Ended:
        """A command of an operator, straight at the stores, to its end."""
        running = await asyncio.create_subprocess_exec(
            *(*HOLDFAST, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env=self.environment(**settings),
        )
        try:
            async with asyncio.timeout(_COMMAND_S):
                out, err = await running.communicate()
        finally:
            if running.returncode is None:
                running.kill()
                await running.wait()
        assert running.returncode is not None
        return Ended(running.returncode, out.decode(), err.decode())

    # What is asked of the stores, past the proxies

    def client(self, **options: Any) -> AsyncClient:
        """holdfast's own client at the first API, which repeats nothing unless told to."""
        return AsyncClient(self.url, self.key, **{"retries": 0, **options})

    def redis_client(self) -> Redis:
        """A client of the primary, to be used by `async with`."""
        return self.redis.client()

    @asynccontextmanager
    async def postgres_connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection to Postgres while the block runs."""
        connection = await self.postgres.connect()
        try:
            yield connection
        finally:
            await connection.close(timeout=5.0)

    async def shard_rows(self) -> list[dict[str, Any]]:
        """The rows of all shards in Postgres, by number."""
        return await self._rows("SELECT * FROM shard ORDER BY id")

    async def incidents(self) -> list[dict[str, Any]]:
        """All incidents, oldest first; `details` is what their JSON says."""
        rows = await self._rows("SELECT * FROM incident ORDER BY id")
        return [row | {"details": json.loads(row["details"])} for row in rows]

    async def _rows(self, statement: str) -> list[dict[str, Any]]:
        async with self.postgres_connection() as connection:
            return [dict(row) for row in await connection.fetch(statement)]

    async def reconcile(self, *arguments: str) -> dict[str, Any]:
        """What `holdfast reconcile --json` says: `exit_code`, `differences`, `findings` and so on.

        Raises AssertionError where it says nothing.
        """
        ended = await self.run("reconcile", "--json", *arguments)
        assert ended.code in (0, 1, 2) and ended.out, ended
        report: dict[str, Any] = json.loads(ended.out)
        return report

    # Waiting

    async def open_again(self, timeout_s: float = PATIENCE_S) -> float:
        """Wait until every API that runs takes new spending on every shard; the seconds it took.

        Leases outlive a Redis and a worker that were killed, by up to 2 s: so every shard must have
        been vetted on the boot of `redis` that runs now, and a worker must have proved since this
        was called that it lives, which a healthy one does twice a second.
        """
        return await self._await_open(timeout_s, {})

    async def _await_open(self, timeout_s: float, proofs: dict[int, datetime]) -> float:
        """`open_again`, with proofs of life that are later than `proofs`, which are found first."""
        started = time.monotonic()
        apis = [api for api in self.apis if api.running and not api.paused]
        assert apis, "no API runs"
        seen: Any = None
        async with httpx2.AsyncClient(trust_env=False, timeout=1.0) as client:
            while True:
                try:
                    closed = [await api.closed(client) for api in apis]
                    seen = next((each for each in closed if each), None)
                    if seen is None and (seen := await self._unproven(proofs)) is None:
                        return time.monotonic() - started
                except (httpx2.TransportError, RedisError, OSError, asyncpg.PostgresError) as error:
                    seen = repr(error)
                if time.monotonic() - started >= timeout_s:
                    raise AssertionError(
                        f"not open within {timeout_s:.1f} s, last seen: {seen}\n{self.log_tails()}"
                    )
                await asyncio.sleep(POLL_S)

    async def _unproven(self, proofs: dict[int, datetime]) -> Any:
        """A shard's row of another boot than the one that runs, or without a new proof of life.

        None if there is none; the first proofs that are seen go into `proofs`.
        """
        async with self.redis_client() as client:
            info = await client.info()
        boot = (info["run_id"], info["master_replid"])
        lacking = None
        for row in await self.shard_rows():
            proof = row["proof_at"] or _NEVER
            proven = proof > proofs.setdefault(row["id"], proof)
            vetted = row["state"] == "open" and (row["boot_run_id"], row["boot_replid"]) == boot
            if not (vetted and proven):
                lacking = row
        return lacking

    def log_tails(self) -> str:
        """The end of what every program and store said last, for a failure."""
        programs = [program.log_path for program in (*self.apis, *self.workers)]
        tails = []
        for log in (*programs, *(node.log_path for node in self._nodes), self.postgres.log_path):
            said = log.read_text(errors="replace") if log.exists() else ""
            tails.append(f"── {log.name}\n{said[-_TAIL_CHARACTERS:]}")
        return "\n".join(tails)

    # Faults that several parts share

    def turn_to(self, node: RedisNode, *hops: str) -> None:
        """Lead what goes to Redis to another node, as an address that was moved would.

        By `hops`, or by both; what is connected is cut off. Without `hops` it becomes `redis`.
        """
        for hop in hops or ("api-redis", "worker-redis"):
            proxy = self.proxies[hop]
            proxy.target = node.address
            proxy.cut_all()
        if not hops:
            self.replicas = [each for each in self._nodes if each is not node]
            self.redis = node

    async def move_clock(self, offset_ms: int) -> None:
        """Put the scripts' clock so far off Redis's own; needs `test_clock`."""
        assert self.settings.get("test_clock") == "true", "production scripts have Redis's clock"
        async with self.redis_client() as client:
            for shard in self.shards:
                await client.hset(shard.meta, "test_offset_ms", str(offset_ms))

    # Life

    async def start(self, *, apis: int, workers: int, proxied: bool) -> None:
        """Start everything; returns when all shards take new spending."""
        await together(self._start_redis(proxied), self.postgres.start())
        if proxied:
            for hop in HOPS:
                target = self.redis if hop.endswith("redis") else self.postgres
                await self._add_proxy(hop, target.address)
        await together(
            *(self.add_worker() for _ in range(workers)), *(self.add_api() for _ in range(apis))
        )
        await together(*(api.ready() for api in self.apis))
        await self._await_open(PATIENCE_S, dict.fromkeys(range(len(self.shards)), _NEVER))

    async def _start_redis(self, proxied: bool) -> None:
        await self.redis.start()
        if proxied and self.replicas:
            await self._add_proxy("replica-redis", self.redis.address)
            for replica in self.replicas:
                replica.replica_of = (HOST, self.proxies["replica-redis"].port)
        await together(*(replica.start() for replica in self.replicas))
        await together(*(replica.followed(self.redis) for replica in self.replicas))

    async def _add_proxy(self, hop: str, target: tuple[str, int]) -> None:
        proxy = FaultProxy(target, seed=self._seed)
        await proxy.start()
        self.proxies[hop] = proxy

    async def close(self) -> None:
        """Kill everything. Repeating it does no harm."""
        try:
            await together(*(program.kill() for program in (*self.apis, *self.workers)))
        finally:
            try:
                await together(*(proxy.close() for proxy in self.proxies.values()))
            finally:
                await together(*(node.kill() for node in self._nodes))
                # Which gives up what they hold on their directories.
                await together(
                    *(node.stop() for node in self._nodes), self.postgres.stop("immediate")
                )


def _variable(name: str) -> str:
    return name if name.isupper() else f"HOLDFAST_{name.upper()}"


@asynccontextmanager
async def service(
    directory: Path,
    *,
    appendfsync: str = "always",
    workers: int = 1,
    apis: int = 1,
    shards: int = 4,
    replicas: int = 0,
    min_replicas_to_write: int | None = None,
    maxmemory: str | None = "256mb",
    test_clock: bool = False,
    settings: Mapping[str, str] | None = None,
    proxied: bool = True,
    seed: int = 0,
) -> AsyncIterator[Place]:
    """A service on stores of its own below `directory`, open on all shards.

    `settings` are those of `holdfast.config` (`{"finish_grace_s": "5"}`); with everysec, programs
    promise `memory`. The primary of a replica set wants one replica for every write, as doctor
    does, unless `min_replicas_to_write` says otherwise; a replica wants none, so that it can be
    promoted alone. `seed` is for the proxies' random. `directory` must be new, or empty.
    """
    primary = RedisNode(
        directory / "redis",
        appendfsync=appendfsync,
        maxmemory=maxmemory,
        min_replicas_to_write=(
            min(replicas, 1) if min_replicas_to_write is None else min_replicas_to_write
        ),
    )
    others = [
        RedisNode(
            directory / f"replica-{number}",
            appendfsync=appendfsync,
            maxmemory=maxmemory,
            replica_of=primary,
        )
        for number in range(replicas)
    ]
    told = {"durability": "local" if appendfsync == "always" else "memory"}
    if test_clock:
        told["test_clock"] = "true"
    postgres = PostgresNode(directory / "postgres", shards=shards)
    place = Place(directory, primary, others, postgres, told | dict(settings or {}), seed)
    place.temporary.mkdir(parents=True)
    try:
        await place.start(apis=apis, workers=workers, proxied=proxied)
        yield place
    finally:
        await asyncio.shield(place.close())
    for data in (place.temporary, primary.directory, *(each.directory for each in others)):
        shutil.rmtree(data)
    staging.remove_data(postgres.directory)
