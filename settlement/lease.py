"""Leases: Redis may take on new spending only while Postgres takes this worker's proof of life.

Every 500 ms, for the open shards that this worker claims:

    TIME of each node ─▶ proof of life in Postgres ─▶ clocks compared ─▶ the `lease` script

The script lends `lease:new` and `lease:finish` until 2 s after that TIME, so that a worker which
was stopped anywhere in between renews nothing.

States of a shard, as the leases make them
    open         both leases: the proof was taken, the clocks agree
    no new       only `lease:finish`: above 70 % of maxmemory
    finishing    only `lease:finish`: Postgres is away; for a (nonce, boot) that this worker has
                 proven itself, until `config.finish_grace_s` after its last proof
    closed       nothing is renewed: no claim, another state, clocks apart, another boot

Rules
- A proof that takes longer than a round's patience is waited for by the next one, with the TIMEs it
  was begun with. Meanwhile Postgres counts as away.
- A clock more than 1 s off closes the shards of its node (no lease, no sweep) and is one incident,
  until it agrees again. While Postgres is away, this worker's own clock stands in for it.
- Shards whose clock was ahead are told so, and refuse leases (STALE) until they have been rebuilt.
  The lease script itself refuses where Redis has ended the last lease before its time: the clock
  was ahead between two rounds.
- More than B1 unsettled entries stop new spending in the scripts themselves, which know the count
  and name the reason; the lease stays.

Failures. A node that hangs is left out after 200 ms, and holds up nobody else's shards. NOSCRIPT,
FENCED, another boot (BUSY) and a clock that was ahead (STALE) are doubts: vetting looks. Any other
refusal of Redis ends that shard's turn; its lease runs out unless a later round renews it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from holdfast.codes import Code
from holdfast.shards import Argument
from holdfast.telemetry import Sampler
from holdfast.wire import Node, RedisUnavailable, ServerError, WireError
from settlement import failpoints
from settlement.clocks import Clocks, Reading, Span
from settlement.failures import POSTGRES_FAILURES
from settlement.queries import sql
from settlement.redis_settings import read_info
from settlement.state import ShardRow, WorkerState
from settlement.vetting import Seen

PERIOD_S = 0.5
_LOOK_S = 0.05  # what a shard waits at most for its first lease
# A round waits so long for the nodes' TIME, for Postgres, and for the leases: 1 s together at
# worst, so that two rounds fit into a lease of 2 s.
_TIME_S = 0.2
_PROOF_S = 0.4
_LEASE_S = 0.4
# A proof that has not come by then is given up with its connection: its TIMEs are too old.
_PROOF_LAST_S = 2.0
FULL = 0.7
"""The share of maxmemory above which nothing new is taken on. The rest is for what finishes: the
entries of B2 a shard, and what comes before the last lease has ended, 2.5 s of the load at most."""


_DOUBTS = {Code.BUSY: "another boot", Code.STALE: "its clock was ahead"}


@dataclass(frozen=True, slots=True)
class Proven:
    """This worker's last proof of life of a shard: what `lease:finish` may outlive it for."""

    nonce: str
    run_id: str
    replid: str
    proof_ms: int
    """By Postgres's clock."""
    at_s: float
    """The same moment by this worker's monotonic clock."""

    def is_of(self, row: ShardRow) -> bool:
        return (self.nonce, self.run_id, self.replid) == (row.nonce, row.run_id, row.replid)


@dataclass(frozen=True, slots=True)
class _Taken:
    """What Postgres answered to a proof of life."""

    numbers: list[int]
    """The shards that took it."""
    now_ms: int
    span: Span
    """Between which moments of this worker Postgres read its clock."""


@dataclass(frozen=True, slots=True)
class _Proof:
    """A proof of life on its way to Postgres."""

    readings: dict[Node, Reading]
    asked: dict[int, tuple[str, str, str]]
    """Per shard nonce, run_id and replid as they were when it was asked for."""
    began: float
    task: asyncio.Task[_Taken]


class Leases:
    """The service of one worker that renews what it claims."""

    def __init__(self, state: WorkerState) -> None:
        self.state = state
        self.clocks = Clocks(state)
        self.seen: dict[int, Seen] = {}
        """Per shard the highest entry that a lease answered: vetting compares it (`lost_tail`)."""
        self._proof: _Proof | None = None
        self._asked: dict[int, str] = {}
        """The nonce under which a proof of a shard was asked for last."""
        self._proven: dict[int, Proven] = {}
        self._lending: dict[Node, asyncio.Task[None]] = {}
        self._logs = Sampler(5.0)

    def sane(self, number: int) -> bool:
        """Whether a shard's clock agreed when it was last compared; nothing is swept otherwise."""
        return self.clocks.sane(number)

    async def run(self) -> None:
        """A round every 500 ms, and as soon as a shard is open anew, until cancelled."""
        try:
            while True:
                began = time.monotonic()
                await self.round()
                # Several services read rows anew; an event would need every one of them to set it.
                while time.monotonic() < began + PERIOD_S and not self._opened():  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_S)
        finally:
            pending: list[asyncio.Task[Any]] = [*self._lending.values()]
            if self._proof is not None:
                pending.append(self._proof.task)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    def _opened(self) -> bool:
        """Whether some shard is open in a generation for which no proof was asked yet."""
        return any(self._asked.get(row.number) != row.nonce for row in self.state.claimed("open"))

    async def round(self) -> None:
        """One round; what fails in it is left to the next. Takes 1 s at most."""
        self._forget_lent()
        rows = self.state.claimed("open")
        nodes = self._by_node(rows)
        readings = await self._read_nodes(nodes)
        await self.clocks.note_ahead()  # what could not be told when it was found
        if not readings and self._proof is None:
            return  # nothing is claimed, or no node answers
        proof = self._proof = self._proof or self._begin_proof(readings)
        done, _ = await asyncio.wait({proof.task}, timeout=_PROOF_S)
        if done:
            self._proof = None
            try:
                taken = proof.task.result()
            except POSTGRES_FAILURES as error:
                self._logs.log("proof_failed", type(error).__name__, error=str(error))
            else:
                await self._with_postgres(proof, taken)
                return
        elif time.monotonic() > proof.began + _PROOF_LAST_S:
            # What it raises now is of no interest, but asyncio wants somebody to have looked.
            proof.task.add_done_callback(lambda task: task.cancelled() or task.exception())
            proof.task.cancel()
            self._proof = None
        await self._without_postgres(readings)

    def _by_node(self, rows: Iterable[ShardRow]) -> dict[Node, list[ShardRow]]:
        nodes: dict[Node, list[ShardRow]] = {}
        for row in rows:
            try:
                nodes.setdefault(self.state.shards.node_of(row.number), []).append(row)
            except RedisUnavailable:
                continue  # the cluster names no primary for it
        return nodes

    # Before Postgres

    async def _read_nodes(self, nodes: dict[Node, list[ShardRow]]) -> dict[Node, Reading]:
        """TIME and memory of the nodes that answer in time and are not busy with the last round."""

        async def one(node: Node, rows: list[ShardRow]) -> tuple[Node, Reading] | None:
            numbers = tuple(row.number for row in rows)
            began = time.monotonic()
            try:
                async with asyncio.timeout(_TIME_S):
                    info, when = await asyncio.gather(read_info(node, "memory"), node.call("TIME"))
                    span = Span(began, time.monotonic())
                    taken_ms = int(when[0]) * 1000 + int(when[1]) // 1000
                    offsets = await self.clocks.offsets(node, numbers, taken_ms)
            except (WireError, TimeoutError):
                return None
            limit = int(info.get("maxmemory", "0"))
            roomy = not limit or int(info["used_memory"]) <= FULL * limit
            return node, Reading(taken_ms, span, roomy, numbers, offsets)

        free = {node: rows for node, rows in nodes.items() if node not in self._lending}
        answers = await asyncio.gather(*(one(node, rows) for node, rows in free.items()))
        return dict(answer for answer in answers if answer is not None)

    # Postgres

    def _begin_proof(self, readings: dict[Node, Reading]) -> _Proof:
        rows = [self.state.rows[n] for reading in readings.values() for n in reading.numbers]
        asked = {row.number: (row.nonce, row.run_id, row.replid) for row in rows}
        nonces = {row.number: row.nonce for row in rows}
        self._asked |= nonces
        began = time.monotonic()
        return _Proof(readings, asked, began, asyncio.create_task(self._prove(nonces)))

    async def _prove(self, nonces: dict[int, str]) -> _Taken:
        """Write the proof of the shards that are still open under these nonces."""
        async with self.state.pool.acquire(timeout=_PROOF_LAST_S) as conn:
            began = time.monotonic()
            try:
                row = await conn.fetchrow(
                    sql("lease_proof"),
                    list(nonces),
                    list(nonces.values()),
                    self.state.worker_id,
                    timeout=_PROOF_LAST_S,
                )
            except BaseException:
                # Nobody answers there: a polite release would wait for it.
                conn.terminate()
                raise
            return _Taken(row["ids"], row["now_ms"], Span(began, time.monotonic()))

    async def _with_postgres(self, proof: _Proof, taken: _Taken) -> None:
        failpoints.hit("lease")
        for number in taken.numbers:
            identity = proof.asked[number]
            self._proven[number] = Proven(*identity, taken.now_ms, taken.span.ended)
        sane = await self.clocks.compare(proof.readings, taken.now_ms, taken.span, postgres=True)
        lent = [number for number in taken.numbers if number in sane]
        await self._lend(lent, proof.readings, new=True)

    async def _without_postgres(self, readings: dict[Node, Reading]) -> None:
        """Only what this worker has proven itself, and not for long, may finish."""
        now, clock_ms = time.monotonic(), int(time.time() * 1000)
        sane = await self.clocks.compare(readings, clock_ms, Span(now, now), postgres=False)
        grace_s = self.state.config.finish_grace_s
        lent = []
        for number, proven in self._proven.items():
            # By the clock on the wall, and where that was set back, by the one that cannot be.
            away_s = max((clock_ms - proven.proof_ms) / 1000, now - proven.at_s)
            if number in sane and away_s < grace_s:
                lent.append(number)
        await self._lend(lent, readings, new=False)

    # Redis

    async def _lend(
        self, numbers: Iterable[int], readings: dict[Node, Reading], *, new: bool
    ) -> None:
        """Run the lease scripts, all of a node in one write. A node that hangs is left behind."""
        # What was read about a shard since its proof may be of another generation.
        rows = [
            row
            for row in map(self.state.rows.__getitem__, numbers)
            if row.state == "open" and self._proven[row.number].is_of(row)
        ]
        for node, of_node in self._by_node(rows).items():
            reading = readings.get(node)
            if reading is not None and node not in self._lending:
                task = asyncio.create_task(self._lend_node(of_node, reading, new))
                self._lending[node] = task
        if self._lending:
            await asyncio.wait(self._lending.values(), timeout=_LEASE_S)
        self._forget_lent()

    def _forget_lent(self) -> None:
        """Nodes whose leases were answered are free for the next round."""
        for node, task in list(self._lending.items()):
            if task.done():
                del self._lending[node]
                task.result()  # a bug in it is not to be lost

    async def _lend_node(self, rows: list[ShardRow], reading: Reading, new: bool) -> None:
        await asyncio.gather(*(self._lend_shard(row, reading, new) for row in rows))

    async def _lend_shard(self, row: ShardRow, reading: Reading, new: bool) -> None:
        number, nonce = row.number, row.nonce
        proven = self._proven[number]
        keys = self.state.shards.keys[number].of_shard()[:4]
        asks_new = int(new and reading.roomy)
        args: list[Argument] = [
            reading.taken_ms,
            proven.run_id,
            proven.replid,
            asks_new,
            proven.proof_ms,
        ]
        try:
            code, rest = await self.state.shards.run(number, "lease", nonce, keys, args)
        except ServerError as error:
            if error.code == "NOSCRIPT":
                self._doubt(row, nonce, "NOSCRIPT")
            else:
                self._logs.log("lease_refused", error.code, shard=number, error=error.message)
            return
        except WireError:
            return  # it is away: there is nobody to lend to
        if code is Code.OK:
            seq, settled = rest[0], rest[1]
            self.seen[number] = Seen(nonce, seq)
            self.clocks.answered(number, behind=False)
            if row.nonce == nonce:
                row.seq, row.settled = seq, settled
        elif code is Code.CLOCK:
            self.clocks.answered(number, behind=True)
        else:
            self._doubt(row, nonce, _DOUBTS.get(code, code.name))

    def _doubt(self, row: ShardRow, nonce: str, reason: str) -> None:
        if row.nonce == nonce and row.state == "open":
            self._logs.log("lease_refused", reason, shard=row.number, error=reason)
            self.state.doubt(row.number, reason)
