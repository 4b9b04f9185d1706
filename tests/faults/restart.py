"""A Redis that is killed and starts anew under load: what it has, and that it stays closed.

    restart = Restart(place, load)
    await restart.kill(0.2)
    closed_s = await restart.vetted()
    await load.more(300)
    await restart.assert_closed_till_vetted()

Whatever it came back with, it decides nothing before a worker has vetted it. That is told by times:
of each shard the last moment is kept at which its row still said that it was not vetted, and nobody
may have been answered well before then, and no entry of its new life made.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.keys import shard_of
from tests.faults.append_only import Appended, entries
from tests.faults.place import PATIENCE_S, Place
from tests.faults.program import POLL_S
from tests.faults.under_load import Background

# Where the boot is another one, no shard opens earlier after its last proof of life.
_PAUSE_MS = 2_500
_ROWS = (
    "SELECT id, state, boot_run_id, boot_replid,"
    " (extract(epoch FROM proof_at) * 1000)::bigint AS proof_ms FROM shard ORDER BY id"
)
_FIRST = (
    "SELECT seq, type, (extract(epoch FROM at) * 1000)::bigint AS at_ms FROM journal"
    " WHERE shard = $1 AND seq > $2 ORDER BY at LIMIT 1"
)


class Restart:
    """One restart, or several: then what is said here is about the last one."""

    def __init__(self, place: Place, load: Background) -> None:
        self.place = place
        self.kept: list[list[Appended]] = [[] for _ in place.shards]
        """The entries that it came back with, by shard."""
        self.load = load
        self.kills = 0
        """How often `kill` has killed it."""
        self._boot = ("", "")
        self._began_ns = 0
        self._closed_until_ms = [0] * len(self.kept)

    @classmethod
    async def begin(cls, place: Place, load: Background) -> Restart:
        """Start a Redis that was killed, on its file as it is. Nothing may have rewritten the file
        since its first start: entries are looked for in what was appended."""
        restart = cls(place, load)
        await restart._begin()
        return restart

    async def _begin(self) -> None:
        # A rewritten file has its entries where they are not looked for: those are known.
        written_now = zip(await written(self.place), self.kept, strict=True)
        self.kept = [now or before for now, before in written_now]
        self.load.note("redis starts")
        self._began_ns = time.time_ns()
        await self.place.redis.start()
        async with self.place.redis_client() as client:
            info: dict[str, Any] = await client.info()
        self._boot = info["run_id"], info["master_replid"]

    @property
    def seqs(self) -> list[int]:
        """The number of the last entry that it came back with, by shard."""
        return last_of(self.kept)

    async def kill(self, down_s: float) -> None:
        """Kill it, whether or not it was vetted by now, and start it after so many seconds."""
        self.load.note("killed")
        await self.place.redis.kill()
        await asyncio.sleep(down_s)
        if self.kills:
            await self._assert_untouched()
        await self._begin()
        self.kills += 1

    async def _assert_untouched(self) -> None:
        """Where it was not vetted when it was killed, nothing has happened."""
        async with self.place.postgres_connection() as connection:
            closed = [row["id"] for row in await self._closed(connection)]
        self._assert_unanswered(dict.fromkeys(closed, time.time_ns() // 1_000_000))
        seqs = last_of(await written(self.place))
        for shard in closed:
            assert seqs[shard] <= self.seqs[shard], f"shard {shard} was not vetted: {seqs[shard]}"

    async def vetted(self, timeout_s: float = PATIENCE_S) -> float:
        """Wait until every shard takes new spending; the seconds since the start."""
        give_up_at = time.monotonic() + timeout_s
        async with self.place.postgres_connection() as connection:
            while True:
                asked_ms = time.time_ns() // 1_000_000
                closed = await self._closed(connection)
                for row in closed:
                    until_ms = max(asked_ms, row["proof_ms"] + _PAUSE_MS)
                    self._closed_until_ms[row["id"]] = until_ms
                if not closed:
                    break
                if time.monotonic() >= give_up_at:
                    raise AssertionError(f"not vetted: {closed}\n{self.place.log_tails()}")
                await asyncio.sleep(POLL_S)
        assert all(self._closed_until_ms), "it was open before anybody looked"
        await self.place.open_again(timeout_s)
        return (time.time_ns() - self._began_ns) / 1e9

    async def _closed(self, connection: Any) -> list[Any]:
        """The rows of shards that were not vetted on this boot."""
        rows = await connection.fetch(_ROWS)
        return [
            row
            for row in rows
            if row["state"] != "open" or (row["boot_run_id"], row["boot_replid"]) != self._boot
        ]

    async def assert_closed_till_vetted(self) -> None:
        """Nothing was answered well, and no entry made, between the start and the vetting. To be
        asked when what came after it is settled, or has begun to be."""
        closed_until_ms = self._closed_until_ms
        self._assert_unanswered(dict(enumerate(closed_until_ms)))
        marks = {each["shard"]: each["details"]["mark"] for each in await self._rebuilt()}
        async with self.place.postgres_connection() as connection:
            for shard, seq in enumerate(self.seqs):
                first = await connection.fetchrow(_FIRST, shard, marks.get(shard, seq))
                assert first is None or first["at_ms"] >= closed_until_ms[shard], (
                    f"shard {shard} was vetted at {closed_until_ms[shard]} or later: {dict(first)}"
                )

    def _assert_unanswered(self, until_ms: Mapping[int, int]) -> None:
        """Nobody was answered well, of these shards, between the start and a time of each."""
        offset_ns = time.time_ns() - time.monotonic_ns()
        for operation in self.load.history.operations:
            answered_ns = (operation.answered_ns or 0) + offset_ns
            if operation.outcome != "ok" or answered_ns < self._began_ns:
                continue
            shard = shard_of(operation.account, len(self.kept))
            early_ms = until_ms.get(shard, 0) - answered_ns // 1_000_000
            assert early_ms <= 0, f"answered {early_ms} ms before the vetting ended: {operation}"

    async def _rebuilt(self) -> list[dict[str, Any]]:
        return [each for each in await self.place.incidents() if each["kind"] == "rebuild"]


async def written(place: Place) -> list[list[Appended]]:
    """The entries that the append-only file of a Redis which does not run has whole, by shard."""
    file = place.redis.aof_files()[-1].read_bytes()
    return await asyncio.to_thread(entries, file, place.shards)


def last_of(kept: Sequence[Sequence[Appended]]) -> list[int]:
    """The number of the last entry of each shard, 0 where there is none."""
    return [shard[-1].seq if shard else 0 for shard in kept]
