"""The settlement worker: carries every entry of the shards it claims from Redis into Postgres.

States. A worker is connecting (waits for both stores and for a schema it knows), working, or
draining (told to stop: it settles what is there, gives its claims back, ends). Nothing is kept on
disk: a worker that is killed at any point is replaced by another one, which reads the marks.

Services, each a task of one event loop, none of which waits for another:

    claims      twice a second says that this worker lives, and which shards are its own
    leases      twice a second proves life in Postgres and lends its shards the right to serve
    vetting     compares every Redis it has not seen with Postgres, and opens or rebuilds shards
    settle      every 20 ms (idle: 50) reads, verifies and settles; below
    freezer     freezes, in Redis, accounts whose entries were rejected
    sweeper     expires what is due on accounts that nobody calls
    upkeep      trims streams, evicts idle accounts, makes partitions
    outbox      applies what Postgres owes to accounts until the journal shows it
    take-backs  takes back what payments gave whose money went back
    allowances  owes accounts the credits of their plans, each period once
    trials      ends trials of accounts that show signs of a paid plan
    plans       brings settings of accounts to what their plan has become
    deliveries  sends events to the endpoints that operators registered
    compensations  gives what accounts are owed for work that failed

A round of the settle loop, for every shard that is claimed, open and not in doubt:

    read (one write to Redis for all) ─▶ verify ─▶ settle (one transaction for several shards)
         ─▶ tell Redis (`settled`, one write for all)

Lease rules. This loop needs no lease and grants none: what is in a stream has happened, and is
settled also while the shard is closed to callers. It is fenced by the mark: generation, nonce, mark
and state must be those it read for, in the statement that moves it.

Failures. Redis away or slow: the shard is read again next round. A nonce or script that Redis does
not know, a gap, a chain that does not link, a `settled` above the mark: the shard is in doubt, and
vetting decides; what stands before the fault is settled first. Postgres refuses the mark: rows are
read again. Postgres away, or an answer lost: the batch is discarded, whether or not it was
committed, and rows are read before anything else is settled. An entry that Postgres rejects is
quarantined (journal.py). A service that fails is started again after 0.1 to 5 s; no failure ends
another one. A failure that is nobody's bug is logged once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import socket
import time
from asyncio import Future
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from holdfast import postgres, scripts
from holdfast.codes import Code
from holdfast.config import Config
from holdfast.decisions import Decisions
from holdfast.ledger import Ledger
from holdfast.shards import Shards
from holdfast.telemetry import Sampler, Telemetry, log
from holdfast.wire import RedisUnavailable, ServerError, Wire, WireError
from settlement import failpoints, incidents, schema
from settlement.allowances import Allowances
from settlement.claims import Claims
from settlement.compensations import Compensations
from settlement.deliveries import Deliveries
from settlement.failures import POSTGRES_FAILURES, described
from settlement.journal import JournalForked, Outcome, ShardBatch, settle
from settlement.lease import Leases
from settlement.metrics import SettleMetrics
from settlement.outbox import Outbox
from settlement.plans import PlanFollower
from settlement.pool import open_pool
from settlement.quarantine import Freezer
from settlement.queries import Pool, sql
from settlement.reader import Reading, verify
from settlement.services import keep
from settlement.state import ShardRow, WorkerState
from settlement.sweeper import Sweeper
from settlement.take_backs import TakeBacks
from settlement.trials import Trials
from settlement.upkeep import Upkeep
from settlement.vetting import Vetting

# Entries of one transaction: beyond this a commit costs nothing an entry any more, and the shard
# whose batch came first waits for all others.
_TOGETHER: Final = 5000
# Entries of one round, about 20 MB parsed: two transactions, so that while Postgres works on one
# the other is prepared.
_ROUND_ENTRIES: Final = 2 * _TOGETHER
_TRANSACTIONS: Final = 2
# What a shard without a known backlog is asked for: five times what the busiest one gets in 20 ms.
_FIRST_LOOK: Final = 1000
_BUSY_PAUSE_S: Final = 0.02
_IDLE_PAUSE_S: Final = 0.05
# What a worker that was told to stop still settles, at most; its leases run out meanwhile.
_DRAIN_S: Final = 2.0
_CONNECT_PAUSE_S: Final = 1.0
# Connections of services that may wait. One of them uses up to four, the others one at a time.
_ASIDE: Final = 4


@dataclass(frozen=True, slots=True)
class _Read:
    """What one shard answered, and the batch that follows from it (which may be empty)."""

    row: ShardRow
    batch: ShardBatch
    reading: Reading
    seq: int
    settled: int

    @property
    def fault(self) -> str:
        """Why this shard cannot be what its row says, or ''."""
        mark = self.batch.mark
        if self.settled > mark:
            return f"Redis has settled up to entry {self.settled}, the journal up to {mark}"
        if self.seq < mark:
            return f"Redis ends at entry {self.seq}, the journal at {mark}"
        if self.reading.broken is not None and not self.reading.entries:
            return self.reading.broken.detail
        return ""


class SettleLoop:
    """The settle loop of one worker; `round` is one turn of it."""

    def __init__(self, state: WorkerState, metrics: SettleMetrics | None = None) -> None:
        self.state = state
        self.metrics = metrics or SettleMetrics()
        self.rejected = asyncio.Event()
        """Set when an entry was rejected, so that its account is frozen without delay."""
        self._uncertain = True
        self._suspects: dict[int, str] = {}
        self._sampler = Sampler()

    async def run(self) -> None:
        """Rounds until cancelled. Raises what asyncpg raises; then it is to be run again."""
        idle = 0
        while True:
            settled, more = await self.round()
            idle = 0 if settled else idle + 1
            if not (settled and more):
                await asyncio.sleep(_IDLE_PAUSE_S if idle > 2 else _BUSY_PAUSE_S)

    async def round(self) -> tuple[int, bool]:
        """Settle what there is, up to a bound; answers how many entries, and whether more waits."""
        if self._uncertain:
            await self.state.refresh(force=True)
            self._uncertain = False
        reads = [read for read in await self._read() if self._is_sound(read)]
        failpoints.hit("read")
        batches = [read.batch for read in reads if read.batch.entries]
        outcomes = await self._settle(batches)
        await self._tell_redis(reads)
        settled = sum(o.mark - b.mark for o, b in zip(outcomes, batches, strict=True))
        return settled, any(read.seq > read.row.mark for read in reads)

    # Read and verify

    async def _read(self) -> list[_Read]:
        """Ask every shard that is ours for what follows its mark: one write to each node."""
        state = self.state
        rows = [row for row in state.claimed("open") if row.number not in state.doubts]
        behind = sum(row.backlog > 0 for row in rows)
        share = max(_ROUND_ENTRIES // max(behind, 1), 1)
        asked: list[tuple[ShardRow, ShardBatch, int, Future[Any]]] = []
        for row in rows:
            limit = min(share if row.backlog else _FIRST_LOOK, state.config.settle_batch)
            batch = ShardBatch(row.number, row.generation, row.nonce, row.mark, [])
            keys = state.shards.keys[row.number].of_shard()[:4]
            if (future := self._send(row, "entries", keys, row.mark, limit)) is not None:
                asked.append((row, batch, limit, future))
        reads = []
        for row, batch, limit, future in asked:
            reply = await self._answer(row, "entries", future)
            # The row may have moved on while Redis was asked: then this answer says nothing.
            if reply is None or (row.generation, row.mark) != (batch.generation, batch.mark):
                continue
            _, row.seq, row.settled, found = reply
            reading = verify(batch.mark, row.chain, found, seq=row.seq, limit=limit)
            batch.entries = reading.entries
            reads.append(_Read(row, batch, reading, row.seq, row.settled))
            if found:
                await asyncio.sleep(0)  # leases must not wait until all of it is verified
        return reads

    def _send(
        self, row: ShardRow, script: str, keys: Sequence[bytes], *args: int
    ) -> Future[Any] | None:
        """Queue a script for this tick's write; None where Redis cannot be asked now."""
        shards = self.state.shards
        sha = scripts.names(row.nonce, shards.test_clock)[script]
        slot = shards.keys[row.number].slot
        try:
            return shards.wire.send(slot, b"EVALSHA", sha, len(keys), *keys, *args)
        except WireError as error:
            self._sampler.log("shard_not_read", type(error).__name__, error=str(error))
            return None

    async def _answer(self, row: ShardRow, script: str, future: Future[Any]) -> list[Any] | None:
        """The reply of a script, or None where it is of no use; doubts say why."""
        try:
            reply: list[Any] = await future
        except ServerError as error:
            if error.code == "NOSCRIPT":
                self._suspect(row, "Redis does not know the scripts of this generation")
            else:
                self._sampler.log("shard_not_read", error.code, error=str(error))
            return None
        except WireError as error:
            self._sampler.log("shard_not_read", type(error).__name__, error=str(error))
            return None
        if reply[0] != Code.OK:
            self._suspect(row, f"Redis refuses {script}: {Code(reply[0]).name}")
            return None
        return reply

    def _is_sound(self, read: _Read) -> bool:
        if read.fault:
            self._suspect(read.row, read.fault)
            return False
        self._suspects.pop(read.row.number, None)
        return True

    def _suspect(self, row: ShardRow, reason: str) -> None:
        """What does not fit may be this worker's own news that are old: doubted the second time."""
        self._uncertain = True
        if self._suspects.pop(row.number, None) is None:
            self._suspects[row.number] = reason
            return
        self.metrics.doubts.inc()
        log("shard_doubted", shard=row.number, reason=reason)
        self.state.doubt(row.number, reason)

    # Settle

    async def _settle(self, batches: Sequence[ShardBatch]) -> list[Outcome]:
        """Settle batches, several in a transaction and two transactions at a time.

        Raises what asyncpg raises; then nothing is known of these shards until rows were read.
        """
        turns = asyncio.Semaphore(_TRANSACTIONS)
        groups = _group(batches)
        results = await asyncio.gather(
            *(self._settle_group(group, turns) for group in groups), return_exceptions=True
        )
        outcomes: list[Outcome] = []
        failure: BaseException | None = None
        for group, result in zip(groups, results, strict=True):
            if isinstance(result, BaseException):
                failure = failure or result
                continue
            for batch, outcome in zip(group, result, strict=True):
                await self._note(batch, outcome)
            outcomes += result
        if failure is not None:
            self._uncertain = True
            raise failure
        return outcomes

    async def _settle_group(
        self, group: Sequence[ShardBatch], turns: asyncio.Semaphore
    ) -> list[Outcome]:
        async with turns, self.state.pool.acquire() as conn:
            started = time.perf_counter()
            outcomes = await settle(conn, group)
            self.metrics.settle_seconds.observe(time.perf_counter() - started)
            return outcomes

    async def _note(self, batch: ShardBatch, outcome: Outcome) -> None:
        """Take over where a shard is now."""
        row, metrics = self.state.rows[batch.number], self.metrics
        metrics.entries.inc(outcome.mark - batch.mark)
        if outcome.quarantined:
            metrics.quarantined.inc(len(outcome.quarantined))
            log("entry_rejected", shard=batch.number, accounts=outcome.quarantined)
            self.rejected.set()
        if outcome.error is None:
            if row.generation == batch.generation and row.mark < outcome.mark:
                row.mark, row.chain = outcome.mark, outcome.chain
            metrics.after_seconds.observe(max(time.time() - batch.entries[0].at / 1000, 0.0))
            return
        self._uncertain = True
        metrics.fenced.inc()
        reason = str(outcome.error)
        self._sampler.log("settle_fenced", "fenced", shard=batch.number, why=reason)
        if isinstance(outcome.error, JournalForked):
            await self._stop(batch, reason)

    async def _stop(self, batch: ShardBatch, reason: str) -> None:
        """The journal contradicts Redis behind its own mark: for an operator."""
        async with self.state.pool.acquire() as conn, conn.transaction():
            moved = (batch.number, batch.nonce, "stopped", reason[:500])
            if await conn.fetchval(sql("generation_state"), *moved) is not None:
                await incidents.record(
                    conn,
                    "stopped",
                    f"shard {batch.number} is stopped: {reason}",
                    shard=batch.number,
                    mark=batch.mark,
                    generation=batch.generation,
                )
                log("shard_stopped", shard=batch.number, reason=reason)

    # Tell Redis

    async def _tell_redis(self, reads: Sequence[_Read]) -> None:
        """Note the marks in `meta.settled`; what is not told now is told next round."""
        asked = []
        for read in reads:
            row = read.row
            if read.settled < row.mark and row.generation == read.batch.generation:
                meta = [self.state.shards.keys[row.number].meta]
                if (future := self._send(row, "settled", meta, row.mark)) is not None:
                    asked.append((row, future))
        for row, future in asked:
            if await self._answer(row, "settled", future) is not None:
                row.settled = max(row.settled, row.mark)


def _group(batches: Sequence[ShardBatch]) -> list[list[ShardBatch]]:
    """Batches that share a transaction, in order."""
    groups: list[list[ShardBatch]] = []
    size = _TOGETHER
    for batch in batches:
        if size + len(batch.entries) > _TOGETHER:
            groups.append([])
            size = 0
        groups[-1].append(batch)
        size += len(batch.entries)
    return groups


class Worker:
    """The services of one worker, on stores that it is given.

    `aside` has the connections of services that may wait: what is owed, what is told. Proof of
    life and settling never queue behind theirs.
    """

    def __init__(self, state: WorkerState, aside: Pool) -> None:
        self.state = state
        self.settling = SettleLoop(state)
        self.claims = Claims(state)
        leases, waiting = Leases(state), replace(state, pool=aside)
        pool = postgres.Pool(aside)
        decisions = Decisions(state.shards, pool, state.config)
        ledger = Ledger(decisions)
        self._gates = decisions.gates
        self.services = {
            "claims": self.claims.run,
            "leases": leases.run,
            "vetting": Vetting(state, leases.seen).run,
            "settle": self.settling.run,
            "freezer": Freezer(state, self.settling.rejected).run,
            "sweeper": Sweeper(state, decisions.cold.load, leases.sane).run,
            "upkeep": Upkeep(state).run,
            "outbox": Outbox(aside, ledger).run,
            "take-backs": TakeBacks(aside).run,
            "allowances": Allowances(aside).run,
            "trials": Trials(aside).run,
            "plans": PlanFollower(waiting, ledger).run,
            "deliveries": Deliveries(waiting).run,
            "compensations": Compensations(pool, ledger).run,
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then drain."""
        working = asyncio.create_task(keep(self.services))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working  # nothing ends it but a failure that no service survives
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)
            for gate in self._gates:
                gate.close()
        await self._drain()

    async def _drain(self) -> None:
        """Settle what is there, and give the claims back, as far as the stores let us."""
        try:
            async with asyncio.timeout(_DRAIN_S):
                settled, more = await self.settling.round()
                while settled and more:
                    settled, more = await self.settling.round()
                await self.claims.release()
        except POSTGRES_FAILURES as error:
            log("service_failed", service="drain", error=described(error))


async def run_worker(config: Config, stop: asyncio.Event) -> None:
    """`holdfast settle`: wait for both stores, check the schema, work until `stop` is set.

    Raises schema.SchemaError, and ValueError for a configuration without both URLs.
    """
    if config.redis_url is None or config.database_url is None:
        raise ValueError("set HOLDFAST_REDIS_URL and HOLDFAST_DATABASE_URL")
    failpoints.arm(config.test_failpoint)
    Telemetry(config.metrics_dir)  # before any metric is made: it decides where numbers are kept
    # A round makes some 100,000 objects that live for it alone; what was imported lives for ever.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    worker_id = f"{socket.gethostname()[:64]}-{os.getpid()}-{secrets.token_hex(4)}"
    wire = Wire(
        config.redis_url,
        timeout_ms=config.call_timeout_ms,
        max_in_flight=config.max_in_flight,
        name="holdfast-settle",
    )
    pool, aside = await open_pool(config), await open_pool(config, _ASIDE)
    try:
        if not await _connect(config, wire, pool, stop):
            return
        shards = Shards(wire, config.prefix, config.shards, test_clock=config.test_clock)
        log("worker_started", worker=worker_id)
        await Worker(WorkerState(pool, shards, config, worker_id), aside).run(stop)
        log("worker_stopped", worker=worker_id)
    finally:
        await wire.close()
        pool.terminate()
        aside.terminate()


async def _connect(config: Config, wire: Wire, pool: Pool, stop: asyncio.Event) -> bool:
    """Wait for both stores; False if told to stop before they are there."""
    connected = False
    while not stop.is_set():
        try:
            if not connected:
                await wire.connect()
                connected = True
            async with pool.acquire() as conn:
                await schema.check(conn, shards=config.shards, prefix=config.prefix)
            return True
        except (RedisUnavailable, *POSTGRES_FAILURES) as error:
            log("worker_waits", error=described(error))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _CONNECT_PAUSE_S)
    return False
