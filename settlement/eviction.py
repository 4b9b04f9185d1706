"""Eviction: idle accounts leave a Redis that is fuller than `config.evict_above_mb`.

A walk over the keys of each node, some thousand a round, goes on where it stopped. An account goes
if nobody has touched it for `config.evict_idle_s`, it has no open hold, all its entries are settled
(the script checks both), and it is not under quarantine. The journal has all of it; its next call
loads it again. Idempotency records stay: they end by themselves.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from holdfast.codes import Code
from holdfast.wire import Node, ServerError
from settlement.queries import sql
from settlement.redis_settings import read_info
from settlement.state import ShardRow, WorkerState

# A round looks at about ten thousand keys of a node, ten calls of 1 ms, and evicts at most 500
# accounts: a million idle ones leave within the hour.
_SCAN_CALLS: Final = 10
_SCAN_COUNT: Final = 1000
_EVICT_MAX: Final = 500
_MEGABYTE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class _Idle:
    """An account that may be evicted, and the key of its hash."""

    row: ShardRow
    account: str
    key: bytes


class Eviction:
    """Where the walk over each node stands."""

    def __init__(self, state: WorkerState) -> None:
        self._state = state
        self._cursors: dict[str, bytes] = {}

    async def round(self) -> int:
        """Evict from every node that is too full; answers how many accounts went.

        Raises wire.WireError and what asyncpg raises.
        """
        evicted = 0
        for node in self._state.shards.wire.nodes():
            if node.connected and await self._too_full(node):
                evicted += await self._evict(node, await self._walk(node))
        return evicted

    async def _too_full(self, node: Node) -> bool:
        info = await read_info(node, "memory")
        return int(info["used_memory"]) > self._state.config.evict_above_mb * _MEGABYTE

    async def _walk(self, node: Node) -> list[_Idle]:
        """The next keys of a node: accounts of shards that this worker claims and nobody used."""
        shards = self._state.shards
        rows = {shards.keys[row.number].family: row for row in self._state.claimed("open")}
        # The accounts of shard 000, with a wildcard for its number.
        pattern = shards.keys[0].acct("*").replace(b"000", b"*")
        address = str(node.address)
        cursor = self._cursors.get(address, b"0")
        idle: list[_Idle] = []
        for _ in range(_SCAN_CALLS):
            cursor, keys = await node.call("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
            known = [(rows.get(key[: key.find(b"}") + 2]), key) for key in keys]
            mine = [(row, key) for row, key in known if row is not None]
            seconds = await asyncio.gather(
                *(node.call("OBJECT", "IDLETIME", key) for _, key in mine), return_exceptions=True
            )
            for (row, key), idle_s in zip(mine, seconds, strict=True):
                if isinstance(idle_s, int) and idle_s >= self._state.config.evict_idle_s:
                    account = key.removeprefix(shards.keys[row.number].acct("")).decode()
                    idle.append(_Idle(row, account, key))
            if cursor == b"0" or len(idle) >= _EVICT_MAX:
                break
        self._cursors[address] = cursor
        return idle[:_EVICT_MAX]

    async def _evict(self, node: Node, idle: list[_Idle]) -> int:
        # What an account did last must be in the journal before Postgres is asked about it: only
        # then has the settle decided whether it belongs under quarantine.
        seqs = await asyncio.gather(*(node.call("HGET", one.key, "last_seq") for one in idle))
        settled = [
            one
            for one, seq in zip(idle, seqs, strict=True)
            if seq is not None and int(seq) <= min(one.row.mark, one.row.settled)
        ]
        if not settled:
            return 0
        async with self._state.pool.acquire() as conn:
            rows = await conn.fetch(sql("evict_quarantined"), [one.account for one in settled])
        quarantined = {row["account"] for row in rows}
        going = [one for one in settled if one.account not in quarantined]
        return sum(await asyncio.gather(*map(self._evict_one, going)))

    async def _evict_one(self, one: _Idle) -> bool:
        """False where the script finds it in use after all."""
        keys = self._state.shards.keys[one.row.number].of_account(one.account)
        try:
            code, _ = await self._state.shards.run(
                one.row.number, "evict", one.row.nonce, keys, [one.account]
            )
        except ServerError:
            return False  # damage of this account; whoever uses it is told
        return code is Code.OK
