"""A holdfast on real servers, vetted by hand: for tests of what stands above Redis and Postgres.

    async with Stack(valkey_server.url, postgres_server.url, shards=4) as stack:
        await stack.open("acme", grant=1_000)
        await stack.reserve("acme", "h1", 40)
        await stack.commit("acme", "h1", 13)

A stack starts no server. It has a database of its own and a prefix of its own in Redis, so that
stacks share servers, and takes both away when it closes. Unless told otherwise it vets every shard
by hand (`vet`) and keeps the leases alive, as a worker would.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from hashlib import sha1
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from holdfast import keys, scripts
from holdfast.codes import Code
from holdfast.config import Config
from holdfast.shards import Argument, Shards
from holdfast.wire import Wire
from settlement import schema
from settlement.journal import Outcome, ShardBatch, settle
from settlement.pool import open_pool
from settlement.reader import Entry, verify
from settlement.state import WorkerState

CONTEXT = '{"request_id":"r-1","actor":"test"}'
WINDOW_MS = 86_400_000
HOLD_TTL_MS = 900_000


class Refused(Exception):
    """A script answered neither OK nor REPLAY."""

    def __init__(self, code: Code, rest: list[Any]) -> None:
        super().__init__(f"{code.name} {rest}")
        self.code = code
        self.rest = rest


class Stack:
    """A database, a prefix, a wire to Redis, and the scripts of one generation."""

    def __init__(
        self,
        redis_url: str,
        database_url: str,
        *,
        shards: int = 4,
        vet: bool = True,
        leases: bool = True,
        test_clock: bool = False,
        **settings: Any,
    ) -> None:
        name = "t" + secrets.token_hex(4)
        self._admin_url = database_url
        parts = urlsplit(database_url)
        self.database = f"holdfast_{name}"
        self.config = Config(
            redis_url=redis_url,
            database_url=urlunsplit(parts._replace(path=f"/{self.database}")),
            prefix=name,
            shards=shards,
            test_clock=test_clock,
            **settings,
        )
        self._vet = vet
        self._leases = leases
        self._renewing: asyncio.Task[None] | None = None
        self.pool: Any = None
        self.wire: Wire
        self.shards: Shards
        self.state: WorkerState

    # Life

    async def __aenter__(self) -> Self:
        await self._administer(f"CREATE DATABASE {self.database}")
        config = self.config
        await schema.migrate(config.database_url, shards=config.shards, prefix=config.prefix)
        self.pool = await open_pool(config)
        self.wire = Wire(config.redis_url or "", timeout_ms=config.call_timeout_ms)
        await self.wire.connect()
        self.shards = Shards(self.wire, config.prefix, config.shards, test_clock=config.test_clock)
        self.state = WorkerState(self.pool, self.shards, config, "test")
        for row in self.state.rows:
            row.claimed = True
        if self._vet:
            await self.vet()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop_leases()
        with contextlib.suppress(Exception):  # a test may have stopped the server
            found = await self.keys()
            for start in range(0, len(found), 500):
                await self.command("UNLINK", *found[start : start + 500])
        await self.wire.close()
        self.pool.terminate()
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            await self._administer(f"DROP DATABASE {self.database} WITH (FORCE)")

    async def _administer(self, statement: str) -> None:
        conn = await asyncpg.connect(self._admin_url, timeout=10)
        try:
            await conn.execute(statement)
        finally:
            await conn.close()

    # Trust, by hand

    async def vet(self, numbers: Sequence[int] | None = None) -> None:
        """Open shards under a new generation, whatever is in them, and keep their leases alive."""
        numbers = range(self.config.shards) if numbers is None else numbers
        await self.stop_leases()
        nonce = secrets.token_hex(16)
        await self.load_scripts(nonce)
        for number in numbers:
            generation = self.state.rows[number].generation + 1
            code, rest = await self.shards.raise_generation(
                number, generation, nonce, self.config.durability
            )
            assert code is Code.OK, rest
            run_id, replid = await self.boot(number)
            await self.pool.execute(
                "UPDATE shard SET generation = $2, nonce = $3, boot_run_id = $4, boot_replid = $5,"
                " state = 'open', state_reason = '' WHERE id = $1",
                *(number, generation, nonce, run_id, replid),
            )
        await self.state.refresh(force=True)
        await self.renew_leases()
        if self._leases:
            self._renewing = asyncio.create_task(self._keep_leases())

    async def load_scripts(self, nonce: str) -> None:
        for node in self.wire.nodes():
            for name in scripts.LOADED:
                text = scripts.render(name, nonce, self.config.test_clock)
                await node.call("SCRIPT", "LOAD", text)

    async def boot(self, number: int) -> tuple[str, str]:
        """run_id and replication id of the node that serves a shard."""
        info = (await self.shards.node_of(number).call("INFO")).decode()
        found = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        return found["run_id"], found["master_replid"]

    async def renew_leases(self, *, new: bool = True) -> None:
        """One lease, of 2 s, for every shard that is open."""

        async def renew(number: int) -> None:
            row, shard = self.state.rows[number], self.shards.keys[number]
            seconds, micros = await self.shards.node_of(number).call("TIME")
            taken_ms = int(seconds) * 1000 + int(micros) // 1000
            code, rest = await self.shards.run(
                number,
                "lease",
                row.nonce,
                shard.of_shard()[:4],
                [taken_ms, row.run_id, row.replid, int(new), taken_ms],
            )
            assert code is Code.OK, (code, rest)

        await asyncio.gather(*(renew(r.number) for r in self.state.rows if r.state == "open"))

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            await self.renew_leases()

    async def stop_leases(self) -> None:
        """Renew no longer; what was lent runs out within 2 s."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
            self._renewing = None

    # Raw access

    async def command(self, *args: Argument) -> Any:
        """One command to the first node, as an operator would send it."""
        return await self.wire.nodes()[0].call(*args)

    async def keys(self) -> list[bytes]:
        """Every key of this stack in Redis."""
        found: list[bytes] = []
        cursor = b"0"
        while True:
            cursor, part = await self.command(
                "SCAN", cursor, "MATCH", f"{self.config.prefix}:*", "COUNT", 1000
            )
            found += part
            if cursor == b"0":
                return found

    async def hash(self, key: bytes) -> dict[str, str]:
        flat = await self.command("HGETALL", key)
        return {k.decode(): v.decode() for k, v in zip(flat[::2], flat[1::2], strict=True)}

    async def meta(self, number: int) -> dict[str, str]:
        return await self.hash(self.shards.keys[number].meta)

    async def acct(self, account: str) -> dict[str, str]:
        return await self.hash(self.shards.keys[self.shards.number_of(account)].acct(account))

    # Scripts

    async def call(
        self, script: str, account: str, *args: Argument, records: Sequence[str] = ()
    ) -> tuple[Code, list[Any]]:
        """Call a script on an account; `records` are the idempotency keys that it touches."""
        number = self.shards.number_of(account)
        shard = self.shards.keys[number]
        count = len([key for key in scripts.header(script).keys if "record" not in key])
        count -= "target" in scripts.header(script).keys
        names = [*shard.of_account(account)[:count], *(shard.record(account, r) for r in records)]
        return await self.shards.run(
            number, script, self.state.rows[number].nonce, names, [account, *args]
        )

    async def move(
        self, script: str, account: str, *args: Argument, records: Sequence[str] = ()
    ) -> list[Any]:
        """A transition (`call` with a context) that is expected to happen; else raises Refused."""
        code, rest = await self.call(script, account, CONTEXT, *args, records=records)
        if code not in (Code.OK, Code.REPLAY):
            raise Refused(code, rest)
        return rest

    async def open(self, account: str, *settings: str, grant: int = 0) -> None:
        await self.move("open", account, 0, *settings)
        if grant:
            await self.grant(account, "opening", grant)

    async def grant(
        self, account: str, key: str, amount: int, *, expires_ms: int | None = None
    ) -> list[Any]:
        fingerprint = keys.fingerprint("grant", {"amount": amount})
        expires = "" if expires_ms is None else expires_ms
        args = (amount, 0, expires, "promo", fingerprint, WINDOW_MS, "", "", key, 0)
        return await self.move("grant", account, *args, records=[key])

    async def adjust(self, account: str, key: str, amount: int) -> list[Any]:
        fingerprint = keys.fingerprint("adjust", {"amount": amount})
        args = (amount, fingerprint, WINDOW_MS, "", "", key, 0, "reject")
        return await self.move("adjust", account, *args, records=[key])

    async def reserve(
        self,
        account: str,
        key: str,
        amount: int,
        *,
        member: str = "",
        ttl_ms: int = HOLD_TTL_MS,
        metadata: str = "",
        model: str = "",
    ) -> list[Any]:
        sent = {"amount": amount, "member": member or None}
        sent |= {"usage": {"model": model} if model else None}
        args = (amount, "", ttl_ms, member, keys.fingerprint("hold", sent), WINDOW_MS)
        args = (*args, "", metadata, key, *([model] if model else []))
        return await self.move("reserve", account, *args, records=[key])

    async def commit(
        self,
        account: str,
        key: str,
        amount: int | None = None,
        *,
        on_shortfall: str = "reject",
        final: bool = True,
        op_key: str = "",
    ) -> list[Any]:
        fingerprint = keys.fingerprint("commit", {"amount": amount, "final": final or None})
        args = (
            *("" if amount is None else amount, on_shortfall, int(final), op_key),
            *(fingerprint, WINDOW_MS, key),
        )
        return await self.move("commit", account, *args, records=[key])

    async def extend(
        self, account: str, key: str, *, ttl_ms: int | None = None, add: int = 0, op_key: str = ""
    ) -> list[Any]:
        fingerprint = keys.fingerprint("extend", {"add_amount": add or None})
        args = ("" if ttl_ms is None else ttl_ms, add or "", op_key, fingerprint, key)
        return await self.move("extend", account, *args, records=[key])

    async def release(self, account: str, key: str, *, op_key: str = "") -> list[Any]:
        args = (op_key, keys.fingerprint("release", {}), WINDOW_MS, key)
        return await self.move("release", account, *args, records=[key])

    async def charge(
        self,
        account: str,
        key: str,
        amount: int,
        *,
        member: str = "",
        on_shortfall: str = "reject",
    ) -> list[Any]:
        fingerprint = keys.fingerprint("charge", {"amount": amount, "member": member or None})
        args = (amount, on_shortfall, member, fingerprint, WINDOW_MS, "", "", key)
        return await self.move("charge", account, *args, records=[key])

    async def refund(self, account: str, key: str, of: str, amount: int | None = None) -> list[Any]:
        fingerprint = keys.fingerprint("refund", {"of": of, "amount": amount})
        wanted = "" if amount is None else amount
        args = (wanted, fingerprint, WINDOW_MS, "", "", key, of, 0)
        return await self.move("refund", account, *args, records=[key, of])

    async def expire(self, account: str, *holds: str) -> list[Any]:
        return await self.move("expire", account, WINDOW_MS, *holds, records=holds)

    async def settings(self, account: str, *pairs: str) -> list[Any]:
        return await self.move("settings", account, *pairs)

    async def member(
        self, account: str, member: str, daily: str = "", monthly: str = "", max_hold: str = ""
    ) -> list[Any]:
        return await self.move("member", account, member, daily, monthly, max_hold)

    # What Redis and the journal have

    async def entries(self, number: int, limit: int = 10_000) -> list[Entry]:
        """The entries of a shard behind its mark, verified."""
        row = self.state.rows[number]
        keys = self.shards.keys[number].of_shard()[:4]
        code, rest = await self.shards.run(number, "entries", row.nonce, keys, [row.mark, limit])
        assert code is Code.OK, rest
        reading = verify(row.mark, row.chain, rest[2], seq=rest[0], limit=limit)
        assert reading.broken is None, reading.broken
        return reading.entries

    async def batch(self, number: int) -> ShardBatch:
        """What a settle of a shard would be given now."""
        row = self.state.rows[number]
        found = await self.entries(number)
        return ShardBatch(number, row.generation, row.nonce, row.mark, found)

    async def settle(self) -> list[Outcome]:
        """Settle all there is, and tell Redis, as the worker would."""
        outcomes: list[Outcome] = []
        for number in range(self.config.shards):
            batch = await self.batch(number)
            if not batch.entries:
                continue
            async with self.pool.acquire() as conn:
                outcomes += await settle(conn, [batch])
            await self.state.refresh([number], force=True)
            row = self.state.rows[number]
            meta = [self.shards.keys[number].meta]
            await self.shards.run(number, "settled", row.nonce, meta, [row.mark])
        return outcomes

    async def forge(self, number: int, text: bytes) -> None:
        """Append an entry that links, as a script of another release or a bug would."""
        shard = self.shards.keys[number]
        meta = await self.meta(number)
        seq = int(meta.get("seq", 0)) + 1
        chain = sha1(meta.get("chain", "").encode() + text).hexdigest()
        await self.command("XADD", shard.stream, f"{seq}-0", "entry", text, "chain", chain)
        await self.command("HSET", shard.meta, "seq", seq, "chain", chain)

    async def row(self, table: str, **where: Any) -> dict[str, Any] | None:
        """One row of a table, or None."""
        rows = await self.rows(table, **where)
        assert len(rows) <= 1, rows
        return rows[0] if rows else None

    async def rows(self, table: str, **where: Any) -> list[dict[str, Any]]:
        """Rows of a table whose columns have these values, in the table's first order."""
        terms = [f"{name} = ${place}" for place, name in enumerate(where, start=1)]
        condition = f" WHERE {' AND '.join(terms)}" if terms else ""
        found = await self.pool.fetch(
            f"SELECT * FROM {table}{condition} ORDER BY 1, 2", *where.values()
        )
        return [dict(row) for row in found]
