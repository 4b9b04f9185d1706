"""Calls of scripts on shards, for everything that is not the ledger's hot path.

A call names its shard, its script and the generation's nonce it believes in. What Redis answers
comes back as a code and the rest; what goes wrong underneath is a `wire.WireError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast import scripts
from holdfast.codes import Code
from holdfast.keys import ShardKeys, shard_of
from holdfast.wire import Node, Wire

Argument = bytes | str | int


class Shards:
    """All shards of one Redis, by number."""

    def __init__(self, wire: Wire, prefix: str, count: int, *, test_clock: bool = False) -> None:
        self.wire = wire
        self.count = count
        self.prefix = prefix
        self.test_clock = test_clock
        self.keys = [ShardKeys(prefix, number) for number in range(count)]

    def number_of(self, account: str) -> int:
        return shard_of(account, self.count)

    def node_of(self, number: int) -> Node:
        return self.wire.node_of(self.keys[number].slot)

    async def run(
        self,
        number: int,
        name: str,
        nonce: str,
        keys: Sequence[bytes],
        args: Sequence[Argument],
    ) -> tuple[Code, list[Any]]:
        """Call one script once. Answers its code and what follows it.

        Raises wire.ServerError (code NOSCRIPT: this Redis was not vetted under `nonce`),
        wire.RedisUnavailable, wire.Overloaded (nothing happened), wire.OutcomeUnknown.
        """
        sha = scripts.names(nonce, self.test_clock)[name]
        slot = self.keys[number].slot
        reply = await self.wire.call(slot, b"EVALSHA", sha, len(keys), *keys, *args)
        return Code(reply[0]), reply[1:]

    async def raise_generation(
        self, number: int, generation: int, nonce: str, durability: str
    ) -> tuple[Code, list[Any]]:
        """Raise `meta` of a shard to a newer generation: sent as text, for it has no nonce.

        OK is followed by seq, settled, chain, last_evict_seq, proof_ms, the mark of the rebuild
        that had not ended (-1: none), and whether its clock was ahead (0/1); FENCED by the
        generation that is newer than this one.
        """
        return await self._send_text(number, scripts.RAISE, generation, nonce, durability)

    async def note_ahead(self, number: int, told_ms: int) -> None:
        """Note in `meta` that the clock of this Redis was ahead, at `told_ms` since 1970.

        It ends the leases; no other is lent until the shard has been rebuilt. Raises as `run`.
        """
        await self._send_text(number, scripts.AHEAD, told_ms)

    async def _send_text(self, number: int, name: str, *args: Argument) -> tuple[Code, list[Any]]:
        """A script that has no nonce, on `meta` and the leases of a shard."""
        shard, text = self.keys[number], scripts.template(name, self.test_clock)
        keys = (shard.meta, shard.lease_new, shard.lease_finish)
        reply = await self.wire.call(shard.slot, b"EVAL", text, len(keys), *keys, *args)
        return Code(reply[0]), reply[1:]
