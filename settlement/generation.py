"""One new generation of one Redis node: its steps, each fenced by the one before it.

    declare ──▶ raise ──▶ load ──▶ judge ──▶ (rebuild) ──▶ pause ──▶ open

`declare` is the Postgres transaction that ends the previous generation: settles of it find another
nonce and are rolled back, those that run are waited for. `raise` ends it in Redis. Only then are
scripts loaded, under a nonce that never had a lease. Every later step names the nonce, in Redis
and in Postgres: a vetter that was stopped in between and overtaken raises Superseded, and has
changed nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from holdfast import scripts
from holdfast.codes import Code
from holdfast.shards import Argument
from holdfast.telemetry import log
from holdfast.wire import Node, ServerError
from settlement import failpoints, incidents
from settlement.failures import POSTGRES_FAILURES
from settlement.queries import Connection, Pool, sql
from settlement.redis_settings import Boot, NodeReport
from settlement.state import WorkerState
from settlement.verdict import Evidence, Mark, Superseded, Tail, Verdict, judge, read_tail

# Tails that are read at the same time: 16 pages of half a megabyte.
_READERS = 16
# The vetter's session is given up by Postgres after 5 s of silence (sql/vetter_expires.sql).
_BEAT_S = 1.0
# A key of ours that is not what a script expects: damage of that shard, not of the node.
_DAMAGE = frozenset({"WRONGTYPE", "ERR"})


@dataclass(slots=True)
class Declared:
    """A shard as the declaration found it, and as its raised `meta` answered."""

    number: int
    mark: Mark
    generation: int
    nonce: str
    state: str
    boot: Boot
    redis_generation: int
    promised: str = ""
    """What its Redis promised so far, as its `meta` says; '' where that says nothing."""
    redis_seq: int = 0
    redis_settled: int = 0
    redis_chain: str = ""
    proof_ms: int = 0
    remnant: int | None = None
    """The mark of the rebuild whose remnant this is; None: it is whole."""
    ahead: bool = False
    """Whether the clock of its Redis was ahead since it was built."""
    journaled: int = 0
    """Up to this entry the journal had it when it was last read or settled: a shard that opens
    with less has lost it in between."""
    damage: str = ""
    """What Redis said where the shard's keys cannot be read."""

    def evidence(self, forced: bool) -> Evidence:
        return Evidence(
            mark=self.mark,
            generation=self.generation,
            redis_generation=self.redis_generation,
            redis_chain=self.redis_chain,
            served=self.boot != Boot(),
            deleting=self.state == "rebuilding",
            forced=forced,
            remnant=self.remnant,
            ahead=self.ahead,
        )


@contextlib.asynccontextmanager
async def vetter(pool: Pool) -> AsyncIterator[bool]:
    """Be the one vetter of this database; False if somebody else is. Raises what asyncpg raises.

    It keeps generations few. What makes a vetter harmless that was overtaken is the nonce.
    """
    async with pool.acquire() as conn:
        if not await conn.fetchval(sql("vetter_claim")):
            yield False
            return
        await conn.execute(sql("vetter_expires"))
        done = asyncio.Event()
        beating = asyncio.create_task(_beat(conn, done))
        try:
            yield True
        finally:
            done.set()
            await beating
            with contextlib.suppress(*POSTGRES_FAILURES):
                await conn.execute(sql("vetter_release"))


async def _beat(conn: Connection, done: asyncio.Event) -> None:
    """Keep the vetter's session alive until `done`, or until it is lost anyway."""
    with contextlib.suppress(*POSTGRES_FAILURES):
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BEAT_S):
                    await done.wait()
            await conn.execute(sql("vetter_beat"))


class Generation:
    """A generation of `node`, as `report` found it. Every step raises wire.WireError, what asyncpg
    raises, and Superseded."""

    def __init__(self, state: WorkerState, node: Node, report: NodeReport) -> None:
        self.state = state
        self.node = node
        self.boot = report.boot
        self.promise = report.promise
        self.nonce = secrets.token_hex(16)
        self.number = 0
        self.shards: dict[int, Declared] = {}

    async def declare(
        self, numbers: Iterable[int], reason: str, forced: Collection[int] = ()
    ) -> None:
        """End the generations of these shards and begin this one. Stopped ones only if `forced`."""
        wanted = sorted(numbers)
        metas = await asyncio.gather(*(self._meta(number) for number in wanted))
        found = dict(zip(wanted, metas, strict=True))
        highest = max((generation for generation, _ in metas), default=0)
        async with self.state.pool.acquire() as conn, conn.transaction():
            rows = await conn.fetch(sql("generation_locked_rows"), wanted, sorted(forced))
            locked = [row["id"] for row in rows]
            declared = await conn.fetch(
                sql("generation_declare"), locked, highest, self.nonce, reason[:500]
            )
        failpoints.hit("declared")
        self.shards = {row["id"]: _declared(row, *found[row["id"]]) for row in rows}
        self.number = max((row["generation"] for row in declared), default=0)
        if locked:
            log(
                "generation_declared",
                generation=self.number,
                node=str(self.node.address),
                shards=locked,
                reason=reason,
            )

    async def _meta(self, number: int) -> tuple[int, str]:
        """The generation and the promise that `meta` says, as far as it says anything; raising it
        finds damage."""
        keys = self.state.shards.keys[number]
        try:
            text, promised = await self.node.call("HMGET", keys.meta, "generation", "durability")
        except ServerError as error:
            if error.code in _DAMAGE:
                return 0, ""
            raise
        known = text is not None and text.isdigit() and len(text) <= 15
        return int(text) if known else 0, (promised or b"").decode(errors="replace")

    async def raise_metas(self, forced: Collection[int] = ()) -> None:
        """End the previous generations in Redis: their scripts are refused from here on.

        A `meta` that no script can read is noted as damage; where a rebuild is `forced`, it goes.
        """
        await asyncio.gather(
            *(self._raise(declared, n in forced) for n, declared in self.shards.items())
        )
        # A process has one clock: what it did to one shard it may have done to each.
        ahead = any(declared.ahead for declared in self.shards.values())
        for declared in self.shards.values():
            declared.ahead = ahead
        failpoints.hit("raised")

    async def _raise(self, declared: Declared, forced: bool) -> None:
        shards, number = self.state.shards, declared.number
        call = (number, self.number, self.nonce, self.promise)
        try:
            code, rest = await shards.raise_generation(*call)
        except ServerError as error:
            if error.code not in _DAMAGE:
                raise
            if not forced:
                declared.damage = error.message
                return
            await self.node.call("UNLINK", shards.keys[number].meta)
            code, rest = await shards.raise_generation(*call)
        if code is not Code.OK:
            raise Superseded(f"shard {number}: Redis has a newer generation ({rest})")
        seq, settled, chain, _last_evict_seq, proof_ms, remnant, ahead = rest
        declared.redis_seq, declared.redis_settled = seq, settled
        declared.redis_chain, declared.proof_ms = chain.decode(), proof_ms
        declared.remnant = remnant if remnant >= 0 else None
        declared.ahead = bool(ahead)

    async def load_scripts(self) -> None:
        """Load every script of this generation. It never had a lease, so nothing runs yet."""
        test_clock = self.state.shards.test_clock
        await asyncio.gather(
            *(
                self.node.call("SCRIPT", "LOAD", scripts.render(name, self.nonce, test_clock))
                for name in scripts.LOADED
            )
        )
        failpoints.hit("loaded")

    async def judge(self, forced: Collection[int] = ()) -> dict[int, Verdict]:
        """Compare every shard with the journal; those whose keys cannot be read are not in it."""
        readers = asyncio.Semaphore(_READERS)

        async def one(declared: Declared) -> Verdict:
            async with readers:
                tail = await self._tail(declared)
            return judge(declared.evidence(declared.number in forced), tail)

        readable = [declared for declared in self.shards.values() if not declared.damage]
        verdicts = await asyncio.gather(*(one(declared) for declared in readable))
        return {d.number: verdict for d, verdict in zip(readable, verdicts, strict=True)}

    async def _tail(self, declared: Declared) -> Tail:
        try:
            return await read_tail(self.state.shards, declared.number, self.nonce, declared.mark)
        except ServerError as error:
            if error.code not in _DAMAGE:
                raise
            fault = f"its stream cannot be read: {error.message}"
            return Tail(declared.redis_seq, declared.redis_settled, declared.mark, fault)

    async def run(
        self, number: int, script: str, keys: list[bytes], args: list[Argument]
    ) -> list[Any]:
        """A script of this generation that must answer OK."""
        code, rest = await self.state.shards.run(number, script, self.nonce, keys, args)
        if code is not Code.OK:
            raise Superseded(f"shard {number}: {script} answers {code.name}")
        return rest

    async def move(self, conn: Connection, number: int, state: str, reason: str) -> None:
        """Write a shard's state, if this generation is still its own."""
        arguments = (number, self.nonce, state, reason[:500])
        if await conn.fetchval(sql("generation_state"), *arguments) is None:
            raise Superseded(f"shard {number}: another generation was declared")

    async def stop(self, number: int, reason: str, **details: Any) -> None:
        """Take a shard out of service until an operator decides; an incident says why."""
        async with self.state.pool.acquire() as conn, conn.transaction():
            await self.move(conn, number, "stopped", reason)
            await incidents.record(
                conn,
                "stopped",
                f"shard {number} is stopped: {reason}",
                shard=number,
                generation=self.number,
                **details,
            )
        log("shard_stopped", shard=number, reason=reason)

    def moved(self, number: int) -> bool:
        """Whether a shard has served, and in another boot than this one."""
        return self.shards[number].boot not in (Boot(), self.boot)

    def may_have_lost(self, number: int) -> bool:
        """Whether what a shard acknowledged last may be gone, though Redis says nothing of it: it
        runs anew, and promised less than that its disk has what it acknowledges. The promise may
        have changed with the restart, and `meta` has the new one where a vetting is started over.
        """
        return self.moved(number) and "memory" in (self.promise, self.shards[number].promised)

    async def open(
        self,
        numbers: Iterable[int],
        tell: Callable[[Connection, Collection[int]], Awaitable[None]] | None = None,
    ) -> None:
        """Let shards serve, in this boot. Where it is another one than before, not earlier than
        2.5 s after the last proof of life: its Redis may still hold a lease.

        `tell` is called with those that open, in the transaction by which they do."""
        wanted = sorted(numbers)
        if not wanted:
            return
        moved = [self.shards[number] for number in wanted if self.moved(number)]
        if moved:
            last_proof_ms = float(max(declared.proof_ms for declared in moved))
            numbers = [declared.number for declared in moved]
            async with self.state.pool.acquire() as conn:
                pause_s = await conn.fetchval(sql("generation_pause"), numbers, last_proof_ms)
            await asyncio.sleep(max(pause_s, 0.0))
        boot = (self.boot.run_id, self.boot.replid)
        marks = [self.shards[n].journaled for n in wanted]
        failpoints.hit("open")
        async with self.state.pool.acquire() as conn, conn.transaction():
            opened = await conn.fetch(sql("generation_open"), wanted, self.nonce, *boot, marks)
            if tell is not None and opened:
                await tell(conn, sorted(row["id"] for row in opened))
        if len(opened) < len(wanted):
            raise Superseded(
                "another generation was declared before this one opened, or Postgres went back"
            )
        log("shards_opened", generation=self.number, shards=wanted)


def _declared(row: Any, redis_generation: int, promised: str) -> Declared:
    return Declared(
        number=row["id"],
        mark=Mark(row["mark"], row["chain"]),
        generation=row["generation"],
        nonce=row["nonce"],
        state=row["state"],
        boot=Boot(row["boot_run_id"], row["boot_replid"]),
        redis_generation=redis_generation,
        promised=promised,
        journaled=row["mark"],
    )
