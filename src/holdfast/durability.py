"""Waiting until the journal has an entry: durability `settled`.

A wait ends with `settled` only when the journal row (shard, seq) carries this entry's chain: after
a loss the same number may be given to another entry, and its caller alone may be told `settled`. A
replay answers no chain. Its row must be of this account and version, and the shard still in the
generation that answered: a Redis loses entries only together with its generation, so within one
the number is this entry's, and this is also so where the row is archived. Where the row is
another's, the wait ends at once; where none comes, it runs out. Both answer `unknown`: accepted,
and nobody says how safe.

NOTIFY is a hint that something settled; one query a process then decides for all who wait. Nobody
polls: a wait asks once when it begins, and once for each hint.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import asyncpg

from holdfast.errors import HoldfastError
from holdfast.model import Durability, Receipt
from holdfast.postgres import Pool
from holdfast.queries import sql

CHANNEL = "holdfast_settled"
_RECONNECT_S = 0.5
# Who only listens does not notice a network that swallows everything. So it subscribes again this
# often, which changes nothing but is answered; at the latest after the second time.
_PROBE_S = 2.0
_ANSWER_S = 1.0

_LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


@dataclass(slots=True, eq=False)
class _Wait:
    account: str
    receipt: Receipt
    nonce: str
    done: asyncio.Future[bool]


class SettledWaits:
    """All waits of one process, and the one connection that listens for them."""

    def __init__(self, pool: Pool, dsn: str, wait_ms: int) -> None:
        self._pool = pool
        self._dsn = dsn
        self._wait_s = wait_ms / 1000
        self._waits: set[_Wait] = set()
        self._hint = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._decide()),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait(self, account: str, receipt: Receipt, nonce: str) -> Durability:
        """`settled` once the journal has the entry; `unknown` where the wait runs out first.

        `nonce` is that of the generation whose Redis answered.
        """
        wait = _Wait(account, receipt, nonce, asyncio.get_running_loop().create_future())
        self._waits.add(wait)
        self._hint.set()
        try:
            async with asyncio.timeout(self._wait_s):
                return "settled" if await wait.done else "unknown"
        except TimeoutError:
            return "unknown"
        finally:
            self._waits.discard(wait)

    async def _listen(self) -> None:
        """One connection that listens; lost or silent, it is opened again, and asks."""
        while True:
            lost = asyncio.Event()
            with suppress(*_LOST):
                conn = await asyncpg.connect(self._dsn, timeout=1, command_timeout=_ANSWER_S)
                try:
                    conn.add_termination_listener(lambda _conn, lost=lost: lost.set())
                    await conn.add_listener(CHANNEL, lambda *_args: self._hint.set())
                    self._hint.set()
                    while not await _within(_PROBE_S, lost):
                        await conn.execute(f"LISTEN {CHANNEL}")
                finally:
                    with suppress(*_LOST):
                        await conn.close(timeout=1)
            await asyncio.sleep(_RECONNECT_S)

    async def _decide(self) -> None:
        while True:
            await self._hint.wait()
            self._hint.clear()
            waits = [wait for wait in self._waits if not wait.done.done()]
            if waits:
                with suppress(HoldfastError):  # Postgres away: the next hint or the time-out
                    await self._ask(waits)

    async def _ask(self, waits: list[_Wait]) -> None:
        async with self._pool.acquire() as conn:
            rows = await conn.fetch(
                sql("settled_entries"),
                [wait.receipt.shard for wait in waits],
                [wait.receipt.seq for wait in waits],
            )
        found = {(row["shard"], row["seq"]): row for row in rows}
        for wait in waits:
            receipt = wait.receipt
            row = found.get((receipt.shard, receipt.seq))
            if row is None or wait.done.done():
                continue
            if row["archived"]:
                # An entry that is new has a number behind all that is archived.
                wait.done.set_result(not receipt.chain and row["nonce"] == wait.nonce)
            elif receipt.chain:
                wait.done.set_result(row["chain"] == receipt.chain)
            else:
                its = (row["account"], row["version"], row["nonce"])
                wait.done.set_result(its == (wait.account, receipt.version, wait.nonce))


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Whether `event` is set within this time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await event.wait()
    return False
