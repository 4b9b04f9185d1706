"""What the scenarios stand on: real stores, a clock that tests move, and eyes for what changed.

One world serves the whole suite; every scenario has accounts of its own. The clock is that of a
shard, in the test build of the scripts, and only ever goes forward for those who come after: when a
scenario ends, its shards keep their offset.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

from holdfast.codes import Code
from settlement.sweeper import Sweeper
from settlement.worker import SettleLoop
from tests.conformance.drivers import Driver
from tests.stack import Stack

# What leases and the settlement move on their own, whoever calls.
_UPKEEP_FIELDS = {
    *("clock_ms", "lent_ms", "proof_ms", "settled"),
    *("test_now_ms", "test_offset_ms"),
}
# Far below the 20,000 unsettled entries of a shard that stop new spending; a scenario makes up to
# 10,000 of them.
_BACKLOG_MAX = 5_000
_LUA_COMMAND = re.compile(r'\[\d+ lua\] "(\w+)" "([^"]*)"')


class World:
    """The stores of the suite, seen from the side of an operator."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._frozen: dict[int, int] = {}
        self._offsets: dict[int, int] = {}
        self._keeper: asyncio.Task[None] | None = None

    # ── leases and time ──────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        await self.lease_all()
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(0.3)
            await self.lease_all()

    async def lease_all(self) -> None:
        await asyncio.gather(*(self.lease(row.number) for row in self.stack.state.rows))

    async def lease(self, number: int) -> Code:
        row, shards = self.stack.state.rows[number], self.stack.shards
        seconds, micros = await shards.node_of(number).call("TIME")
        taken_ms = int(seconds) * 1000 + int(micros) // 1000
        args = [taken_ms, row.run_id, row.replid, 1, taken_ms]
        code, _ = await shards.run(
            number, "lease", row.nonce, shards.keys[number].of_shard()[:4], args
        )
        return code

    async def _set(self, number: int, **fields: int) -> None:
        meta = self.stack.shards.keys[number].meta
        for name in ("test_now_ms", "test_offset_ms"):
            if name in fields:
                await self.stack.command("HSET", meta, name, fields[name])
            else:
                await self.stack.command("HDEL", meta, name)

    async def _redis_ms(self) -> int:
        seconds, micros = await self.stack.command("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def freeze(self, account: str) -> int:
        """Stop the clock of the account's shard; the time it stopped at, in milliseconds."""
        number = self.stack.shards.number_of(account)
        now = await self._redis_ms() + self._offsets.get(number, 0) + 1
        self._frozen[number] = now
        await self._set(number, test_now_ms=now)
        return now

    async def advance(self, account: str, by_ms: int) -> int:
        number = self.stack.shards.number_of(account)
        self._frozen[number] += by_ms
        await self._set(number, test_now_ms=self._frozen[number])
        return self._frozen[number]

    async def thaw(self) -> None:
        """Let every clock run on from where its scenario left it."""
        for number, frozen in self._frozen.items():
            clock_ms = int((await self.stack.meta(number)).get("clock_ms", 0))
            offset = max(frozen, clock_ms) - await self._redis_ms() + 1
            self._offsets[number] = offset
            await self._set(number, test_offset_ms=offset)
            assert await self.lease(number) is Code.OK
        self._frozen.clear()

    async def lease_seen(self, account: str) -> None:
        """Until a lease has carried the shard's present time into `meta.clock_ms`."""
        assert await self.lease(self.stack.shards.number_of(account)) is Code.OK

    # ── accounts ─────────────────────────────────────────────────────────────────────────────────

    def name(self) -> str:
        return f"acct-{secrets.token_hex(6)}"

    async def account(self, api: Driver, amount: int, **settings: Any) -> str:
        """A new account with `amount` granted."""
        name = self.name()
        opened = await api.open(name, **settings)
        assert opened.status == 201, opened
        if amount:
            assert (await api.grant(name, amount)).status == 201
        return name

    async def entries(self, account: str) -> list[dict[str, Any]]:
        """Every entry of the account in its shard's stream, parsed, oldest first."""
        stream = self.stack.shards.keys[self.stack.shards.number_of(account)].stream
        found = await self.stack.command("XRANGE", stream, "-", "+")
        parsed = [json.loads(fields[1]) for _, fields in found]
        return [entry for entry in parsed if entry["account"] == account]

    async def keys(self, account: str) -> dict[str, bytes]:
        """The account's keys by short name: acct, open, members, key:<key>."""
        family = self.stack.shards.keys[self.stack.shards.number_of(account)].family.decode()
        found = {}
        for key in await self.stack.keys():
            kind, _, rest = key.decode().removeprefix(family).partition(":")
            if rest == account and key.decode().startswith(family):
                found[kind] = key
            elif kind == "key" and rest.startswith(f"{account}:"):
                found[f"key:{rest[len(account) + 1 :]}"] = key
        return found

    async def ttls(self, account: str) -> dict[str, int]:
        return {
            name: await self.stack.command("PTTL", key)
            for name, key in (await self.keys(account)).items()
        }

    async def dump(self, account: str) -> dict[bytes, Any]:
        """Every key of the account's shard, byte for byte, less what upkeep moves on its own."""
        shard = self.stack.shards.keys[self.stack.shards.number_of(account)]
        found: dict[bytes, Any] = {}
        for key in await self.stack.keys():
            if not key.startswith(shard.family) or key in (shard.lease_new, shard.lease_finish):
                continue
            if key == shard.meta:
                meta = await self.stack.hash(key)
                found[key] = {k: v for k, v in meta.items() if k not in _UPKEEP_FIELDS}
            else:
                found[key] = await self.stack.command("DUMP", key)
        return found

    @asynccontextmanager
    async def unchanged(self, account: str) -> AsyncIterator[None]:
        """What happens inside leaves every key of the account's shard as it was."""
        before = await self.dump(account)
        yield
        assert await self.dump(account) == before

    async def commands_of(self, call: Awaitable[Any]) -> list[tuple[str, str]]:
        """The commands, with their first key, that the call's script issued."""
        host, port = (
            self.stack.wire.nodes()[0].address.host,
            self.stack.wire.nodes()[0].address.port,
        )
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"MONITOR\r\n")
        await reader.readline()
        assert (await call).ok
        marker = secrets.token_hex(8)
        await self.stack.command("ECHO", marker)
        lines: list[str] = []
        while marker not in (line := (await reader.readline()).decode()):
            lines.append(line)
        writer.close()
        await writer.wait_closed()
        script: list[tuple[str, str]] = []
        for line in lines:
            if '"EVALSHA"' in line:
                ours = ":acct:" in line
            elif (match := _LUA_COMMAND.search(line)) and ours:
                script.append((match[1], match[2]))
        # A record's key names the call; everything else must be the same.
        return [(c, "key" if ":key:" in k else k) for c, k in script]

    # ── settlement ───────────────────────────────────────────────────────────────────────────────

    async def settle(self) -> None:
        """Carry every entry of every shard into Postgres, and tell Redis."""
        loop = SettleLoop(self.stack.state)
        for _ in range(100):  # 10,000 entries a round
            settled, more = await loop.round()
            if not settled and not more:
                return
        raise AssertionError("the journal does not catch up")

    async def settle_backlog(self) -> None:
        """Settle where so much has gathered that new spending would close before long."""
        for row in self.stack.state.rows:
            meta = await self.stack.meta(row.number)
            if int(meta.get("seq", 0)) - int(meta.get("settled", 0)) > _BACKLOG_MAX:
                await self.settle()
                return

    async def sweep(self) -> None:
        """Run a sweeper until nothing is due."""

        async def load(account: str) -> object:
            raise AssertionError(f"{account} is cold")

        sweeper = Sweeper(self.stack.state, load, lambda _number: True)
        for _ in range(50):  # each round ends a thousand holds of an account
            if not await sweeper.round():
                return
        raise AssertionError("the sweeper does not come to an end")

    async def evict(self, account: str) -> Code:
        code, _ = await self.stack.call("evict", account)
        return code

    async def forget(self, account: str) -> None:
        """Leave nothing of the account in Redis, as a rebuild does: the journal has all of it."""
        number = self.stack.shards.number_of(account)
        for key in (await self.keys(account)).values():
            await self.stack.command("DEL", key)
        meta = await self.stack.meta(number)
        key = self.stack.shards.keys[number].meta
        await self.stack.command("HSET", key, "last_evict_seq", meta["settled"])
