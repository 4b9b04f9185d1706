"""Which generation each shard is in, as far as this process knows.

A shard's gate is *known* (it has the nonce last read from `meta`) or *fenced* (a script of that
nonce was refused). Knowing a nonce opens nothing: only a vetted Redis has scripts of that name.
Once fenced, the gate fails callers at once while one reader looks for another nonce, first
immediately, then after 20, 40, … 250 ms: so a shard serves again within 250 ms of being opened, and
a closed one costs four reads a second. The gate never loads a script.
"""

from __future__ import annotations

import asyncio

from holdfast import scripts
from holdfast.errors import StoreUnavailable
from holdfast.model import Durability
from holdfast.shards import Shards
from holdfast.wire import WireError

_FIRST_PAUSE_S = 0.02
_LAST_PAUSE_S = 0.25


class Gate:
    """One shard's generation: script names to call, and what an acknowledgement promises."""

    __slots__ = ("_reader", "_shards", "durability", "fenced", "names", "nonce", "number")

    def __init__(self, shards: Shards, number: int) -> None:
        self._shards = shards
        self.number = number
        self.nonce = ""
        self.names: dict[str, bytes] = {}
        self.durability: Durability = "memory"
        self.fenced = True
        self._reader: asyncio.Task[None] | None = None

    def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()

    def refuse(self, nonce: str) -> StoreUnavailable:
        """A script of `nonce` was refused, or none is known: start looking for another one."""
        if nonce == self.nonce:
            self.fenced = True
            if self._reader is None or self._reader.done():
                self._reader = asyncio.create_task(self._look())
        return StoreUnavailable("fenced", "this part of Redis is being vetted; try again shortly")

    async def read(self) -> bool:
        """Read `meta` once; True where it names a generation that there is reason to try."""
        shard = self._shards.keys[self.number]
        reply = await self._shards.wire.call(
            shard.slot, b"HMGET", shard.meta, b"nonce", b"durability"
        )
        nonce = (reply[0] or b"").decode()
        if not scripts.NONCE_PATTERN.fullmatch(nonce):
            return False
        names = scripts.names(nonce, self._shards.test_clock)
        if nonce == self.nonce and not await self._loaded(shard.slot, names):
            return False
        self.names = names
        self.nonce = nonce
        self.durability = "local" if reply[1] == b"local" else "memory"
        self.fenced = False
        return True

    async def _loaded(self, slot: int, names: dict[str, bytes]) -> bool:
        """Does Redis have these scripts? Vetting raises `meta` first and loads them afterwards: a
        generation that refused us in between is the right one a moment later."""
        found = await self._shards.wire.call(slot, b"SCRIPT", b"EXISTS", *names.values())
        return all(found)

    async def _look(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:  # ends with a nonce to try, or with the process; one read a pause
            try:
                if await self.read():
                    return
            except WireError:
                pass
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LAST_PAUSE_S)
