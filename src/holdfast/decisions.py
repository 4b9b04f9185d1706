"""How one call is decided: a script, once, and the steps it may ask for in between.

    call ──▶ answer (OK, REPLAY), or refusal (an error of `errors.py`), or a step, then call again:
             MISS: load the account · MISS_KEY, MISS_RECORD: bring a record · DUE: expire holds

Each step changes what the next try meets; after 8 rounds the answer is `overloaded`. Nothing is
repeated after it may have happened: a lost answer is `outcome_unknown`, and the caller repeats it
with the same key.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Literal

from holdfast import replies
from holdfast.codes import Code
from holdfast.cold import ColdLoader
from holdfast.config import Config
from holdfast.durability import SettledWaits
from holdfast.errors import NotFound, OverloadedError, StoreUnavailable, Unavailable, UnknownAccount
from holdfast.gate import Gate
from holdfast.model import Durability, Receipt
from holdfast.postgres import Pool, open_pool
from holdfast.shards import Argument, Shards
from holdfast.wire import ServerError, Wire, WireError

Level = Literal["memory", "local", "settled"]

# Steps between tries: each load or expiry (100 holds a time) decides for good unless others undo it
# meanwhile. Past eight, an account is under such load that waiting helps more than trying.
ROUNDS = 8
# What the journal needs to catch up, most of the time: a round of the settle loop and its settle.
_SETTLE_S = 0.05
_EXPIRY_CONTEXT = b'{"actor":"ledger"}'


async def open_decisions(config: Config) -> Decisions:
    """Decisions over the stores that `config` names; closed while they are away.

    Raises StoreUnavailable where a URL is missing.
    """
    if config.redis_url is None or config.database_url is None:
        raise StoreUnavailable("config", "set HOLDFAST_REDIS_URL and HOLDFAST_DATABASE_URL")
    wire = Wire(
        config.redis_url, timeout_ms=config.call_timeout_ms, max_in_flight=config.max_in_flight
    )
    shards = Shards(wire, config.prefix, config.shards, test_clock=config.test_clock)
    decisions = Decisions(shards, await open_pool(config), config)
    await decisions.start()
    return decisions


class Decisions:
    """Every shard's gate, the cold loader and the waits for durability, of one process."""

    def __init__(self, shards: Shards, pool: Pool, config: Config) -> None:
        self.shards = shards
        self.pool = pool
        self.window_ms = config.key_window_s * 1000
        self._default: Level = config.durability
        self.gates = [Gate(shards, number) for number in range(shards.count)]
        self.cold = ColdLoader(shards, self.gates, pool, self.window_ms)
        self._waits = SettledWaits(pool, config.database_url or "", config.settled_wait_ms)

    async def start(self) -> None:
        """Connect and learn each shard's generation; what cannot be reached stays closed."""
        with contextlib.suppress(WireError):
            await self.shards.wire.connect()
        for gate in self.gates:
            gate.refuse(gate.nonce)
        await self._waits.start()

    async def close(self) -> None:
        for gate in self.gates:
            gate.close()
        await self._waits.close()
        await self.shards.wire.close()
        await self.pool.close()

    async def call(
        self, number: int, script: str, keys: list[bytes], args: Sequence[Argument]
    ) -> list[Any]:
        """One script, once. Raises Unavailable where it did not run or may have run."""
        gate = self.gates[number]
        nonce = gate.nonce
        if gate.fenced:
            raise gate.refuse(nonce)
        slot = self.shards.keys[number].slot
        try:
            reply: list[Any] = await self.shards.wire.send(
                slot, b"EVALSHA", gate.names[script], len(keys), *keys, *args
            )
        except WireError as error:
            if isinstance(error, ServerError) and error.code == "NOSCRIPT":
                raise gate.refuse(nonce) from None
            raise replies.unreachable(error) from error
        if reply[0] == Code.FENCED:
            raise gate.refuse(nonce)
        return reply

    async def decide(
        self,
        script: str,
        account: str,
        key: str | None,
        args: list[Argument],
        *,
        absent_at: int = 0,
        target: str | None = None,
    ) -> list[Any]:
        """Call a script until it answers or refuses, doing the steps it asks for in between.

        `absent_at` is where in `args` the mark goes at which the journal lacked `key`.
        """
        number = self.shards.number_of(account)
        shard = self.shards.keys[number]
        keys = shard.of_account(account)
        if key is not None:
            keys.append(shard.record(account, key))
        if target is not None:
            keys.append(shard.record(account, target))
        for _ in range(ROUNDS):
            reply = await self.call(number, script, keys, args)
            code = reply[0]
            if code <= Code.REPLAY:
                return reply
            if code == Code.MISS_KEY and key is not None:
                if args[absent_at] != "":
                    # A mark was brought and is too low: the journal is a settle behind.
                    await asyncio.sleep(_SETTLE_S)
                found, mark = await self.cold.bring_key(account, key)
                if not found:
                    args[absent_at] = mark
            else:
                await self._step(script, account, target or key, Code(code), reply[1:])
        raise OverloadedError(f"the account is too busy to decide this {script} now")

    async def _step(
        self, script: str, account: str, key: str | None, code: Code, detail: list[Any]
    ) -> None:
        """What a script asked for before it can decide; a refusal is raised."""
        if code is Code.DUE:
            await self._expire(account, [hold.decode() for hold in detail])
        elif code is Code.MISS:
            mark = await self.cold.load(account)
            if mark is not None:
                raise UnknownAccount(account, mark)
        elif code is Code.MISS_RECORD and key is not None:
            if detail or not (await self.cold.bring_key(account, key))[0]:
                raise NotFound.hold(account, key)
        else:
            raise replies.refusal(script, code, detail)

    async def _expire(self, account: str, holds: list[str]) -> None:
        number = self.shards.number_of(account)
        shard = self.shards.keys[number]
        keys = shard.of_account(account) + [shard.record(account, hold) for hold in holds]
        reply = await self.call(
            number, "expire", keys, [account, _EXPIRY_CONTEXT, self.window_ms, *holds]
        )
        code = Code(reply[0])
        if code not in (Code.OK, Code.MISS):
            raise replies.refusal("expire", code, reply[1:])

    async def read(
        self, script: str, account: str, key: str | None, args: list[Argument]
    ) -> tuple[list[Any], bool]:
        """As `decide`, but what is due and cannot be expired is read as it stands.

        The last of `args` is the script's `even_if_due`. Answers the reply and if it is stale.
        """
        try:
            return await self.decide(script, account, key, args), False
        except NotFound:
            raise
        except Unavailable:
            return await self.decide(script, account, key, [*args[:-1], "1"]), True

    async def promise(self, account: str, receipt: Receipt, level: Level | None) -> Durability:
        """What the acknowledgement survives: at most what this Redis can promise without a wait."""
        level = level or self._default
        if level == "settled":
            return await self._waits.wait(account, receipt, self.gates[receipt.shard].nonce)
        return level if self.gates[receipt.shard].durability == "local" else "memory"
