"""Vetting: no Redis serves that was not compared with the journal, in this very run of it.

States of a shard (column `state`):

    vetting ──adopt──▶ open
       │                ▲
       ├──▶ rebuilding ─┘
       └──▶ stopped       (an operator's rebuild leads out of it)

A round looks at every primary that answers and at every row. A shard is suspect where Redis runs as
another boot than the row's, where a vetting did not end, or where a service doubts it (NOSCRIPT,
another nonce, a stream that does not link, a clock that was ahead) and the doubt proves true. What
is only not this worker's latest news is joined by reading the row again: nobody starts a generation
because somebody else did.

Rules
- Settings first, and on another boot `BGREWRITEAOF` to success, both before anything closes: a torn
  tail of the append-only file must not be there at the next restart.
- No vetting while the clock of the node is ahead: what ends early meanwhile would be missed. Once
  it is right all shards of the node are rebuilt, as `meta.ahead_ms` says of any of them.
- One vetter at a time. Once elected it looks again, for the one before may have done it.
- A node that does not answer closes nobody else: its shards wait, the others are vetted.

Failures. Whatever goes wrong ends the attempt; the shards stay as they are in Postgres, closed, and
the next round, of this worker or another, starts over with another generation. A vetter that was
stopped half way is refused by nonce. Postgres away: no vetting. Redis hung: its node is left out
after 500 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from holdfast.telemetry import Sampler
from holdfast.wire import Node, WireError
from settlement import incidents
from settlement.clocks import ClockAhead, Clocks
from settlement.failures import POSTGRES_FAILURES, described
from settlement.generation import Generation, vetter
from settlement.lost_tail import LostTail, report
from settlement.queries import Connection
from settlement.readiness import Refused, make_ready
from settlement.rebuild import NotEmptied, rebuild, settle_prefix
from settlement.redis_settings import Boot, NodeReport, boot_of, read_info
from settlement.state import WorkerState
from settlement.suspicion import Suspects, look, node_of
from settlement.verdict import Fate, Superseded, Verdict

# A look costs a row read a shard and two INFO a node; five a second find a restart before its first
# caller has backed off.
_PAUSE_S = 0.2
# A node that is refused, or was away, is made ready again after this.
_REFUSED_PAUSE_S = 1.0
# An operator's rebuild waits for the vetting that goes on, which may be a rebuild itself.
_ELECTION_S = 60.0

FAILURES = (WireError, *POSTGRES_FAILURES, Superseded, NotEmptied, ClockAhead)
"""What ends an attempt, to be started over: a store is away, another vetter, a stray writer,
a clock."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The highest entry of a shard that this worker saw in one generation."""

    nonce: str
    seq: int


@dataclass(frozen=True, slots=True)
class _Ready:
    """A node as it was checked; `rewritten` where its append-only file was rewritten as well."""

    report: NodeReport
    rewritten: bool


class Vetting:
    """The service that runs in every worker, and what `holdfast rebuild` uses."""

    def __init__(self, state: WorkerState, seen: Mapping[int, Seen] | None = None) -> None:
        """`seen` is what the leases of this worker answered; it tells how much a Redis lost."""
        self.state = state
        self._seen = {} if seen is None else seen
        self._served: dict[int, str] = {}
        """Per shard the nonce of the last generation that this worker found open: what leases saw
        is of that one, however many were declared since and came to nothing."""
        self._clocks = Clocks(state)
        self._preparing: dict[str, asyncio.Task[None]] = {}
        self._ready: dict[str, _Ready] = {}
        self._refused_until: dict[str, float] = {}
        self._logs = Sampler(5.0)

    async def run(self) -> None:
        """Look, and vet what is suspect, until cancelled."""
        try:
            while True:
                try:
                    await self.round()
                except FAILURES as error:
                    self._logs.log("vetting_failed", type(error).__name__, error=described(error))
                # Not wait_for, which before Python 3.12 can swallow the cancellation.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PAUSE_S):
                        await self.state.doubted.wait()
        finally:
            for task in self._preparing.values():
                task.cancel()
            await asyncio.gather(*self._preparing.values(), return_exceptions=True)

    async def round(self) -> None:
        """One look, and one vetting of what is suspect and ready for it. Raises FAILURES."""
        doubts = dict(self.state.doubts)
        self.state.doubts.clear()
        self.state.doubted.clear()
        try:
            suspects = await self._look(doubts)
            self._prepare(suspects)
            if any(self._prepared(suspect) for suspect in suspects):
                async with vetter(self.state.pool) as elected:
                    if elected:
                        suspects = await self._look(doubts)
                        ready = [suspect for suspect in suspects if self._prepared(suspect)]
                        suspects = [suspect for suspect in suspects if suspect not in ready]
                        await self._vet_ready(ready)
        except BaseException:
            self._doubt_again(doubts, doubts)
            raise
        for suspect in suspects:
            self._doubt_again(suspect.reasons, doubts)

    async def _look(self, doubts: Mapping[int, str]) -> list[Suspects]:
        suspects = await look(self.state, doubts)
        self._served |= {row.number: row.nonce for row in self.state.rows if row.state == "open"}
        return suspects

    def _doubt_again(self, numbers: Iterable[int], doubts: Mapping[int, str]) -> None:
        """What was not decided is doubted on, until the next round and without waking it."""
        for number in doubts.keys() & set(numbers):
            self.state.doubts.setdefault(number, doubts[number])

    # Settings and the append-only file, before anything closes

    def _prepared(self, suspects: Suspects) -> bool:
        ready = self._ready.get(str(suspects.node.address))
        return (
            ready is not None
            and ready.report.boot == suspects.boot
            and ready.rewritten >= suspects.moved
        )

    def _prepare(self, suspects: Iterable[Suspects]) -> None:
        """Begin to make nodes ready, but for one where that goes on or failed a moment ago."""
        for address, task in list(self._preparing.items()):
            if task.done():
                del self._preparing[address]
                task.result()  # a bug in it is not to be lost
        now = time.monotonic()
        wanted = {str(suspect.node.address): suspect for suspect in suspects}
        # What was found out about a node is good for one suspicion.
        self._ready = {name: ready for name, ready in self._ready.items() if name in wanted}
        for address, suspect in wanted.items():
            if self._prepared(suspect) or address in self._preparing:
                continue
            if now >= self._refused_until.get(address, now):
                task = asyncio.create_task(self._make_ready(suspect))
                self._preparing[address] = task

    async def _make_ready(self, suspects: Suspects) -> None:
        node = suspects.node
        address = str(node.address)
        try:
            await self._clocks.assert_not_ahead(node, self._shards_of(node))
            report = await make_ready(self.state, node, moved=suspects.moved)
            self._ready[address] = _Ready(report, suspects.moved)
        except (Refused, *FAILURES) as error:
            self._refused_until[address] = time.monotonic() + _REFUSED_PAUSE_S
            self._logs.log("node_not_ready", address, node=address, error=described(error))
        self.state.doubted.set()  # there is news: look again now

    # Vetting

    async def _vet_ready(self, ready: Iterable[Suspects]) -> None:
        results = await asyncio.gather(*map(self._vet_node, ready), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _vet_node(
        self, suspects: Suspects, forced: Collection[int] = (), asked_by: str = ""
    ) -> None:
        ready = self._ready.pop(str(suspects.node.address))
        generation = Generation(self.state, suspects.node, ready.report)
        # All shards of the node: what was found of one is true of the process.
        numbers = self._shards_of(suspects.node)
        if suspects.moved and ready.report.started_ahead:
            await self._clocks.note_ahead(dict.fromkeys(numbers, int(time.time() * 1000)))
        await self._clocks.assert_not_ahead(suspects.node, numbers)
        try:
            reason = suspects.reason
            await self.vet(generation, numbers, reason, forced=forced, asked_by=asked_by)
        finally:
            with contextlib.suppress(*FAILURES):
                await self.state.refresh(numbers, force=True)

    def _shards_of(self, node: Node) -> list[int]:
        return [n for n in range(self.state.shards.count) if node_of(self.state, n) is node]

    async def vet(
        self,
        generation: Generation,
        numbers: Iterable[int],
        reason: str,
        *,
        forced: Collection[int] = (),
        asked_by: str = "",
    ) -> None:
        """Everything from the declaration to the opening. Raises FAILURES."""
        await generation.declare(numbers, reason, forced)
        for number, declared in generation.shards.items():
            if declared.state == "open":
                self._served[number] = declared.nonce
        await generation.raise_metas(forced)
        await generation.load_scripts()
        verdicts = await generation.judge(forced)
        for number, declared in generation.shards.items():
            if declared.damage:
                await generation.stop(number, f"its meta cannot be read: {declared.damage}")
        await self._report_lost_commits(generation, verdicts)
        chosen: dict[Fate, list[int]] = {fate: [] for fate in Fate}
        for number, verdict in verdicts.items():
            chosen[verdict.fate].append(number)
        for number in chosen[Fate.STOP]:
            tail = verdicts[number].tail
            details = {"redis_seq": tail.seq, "redis_settled": tail.settled}
            mark = generation.shards[number].mark.seq
            await generation.stop(number, verdicts[number].reason, mark=mark, **details)
        await self._adopt(generation, chosen[Fate.ADOPT], verdicts)
        await rebuild(
            generation,
            {number: verdicts[number] for number in chosen[Fate.REBUILD]},
            {number: self._seen_of(number) for number in chosen[Fate.REBUILD]},
            asked_by,
        )

    def _seen_of(self, number: int) -> int:
        """The last entry this worker saw in the generation that served last, 0 if it saw none."""
        seen = self._seen.get(number)
        return seen.seq if seen is not None and seen.nonce == self._served.get(number) else 0

    async def _report_lost_commits(
        self, generation: Generation, verdicts: Mapping[int, Verdict]
    ) -> None:
        for number, verdict in verdicts.items():
            if not verdict.went_back:
                continue
            declared, tail = generation.shards[number], verdict.tail
            async with self.state.pool.acquire() as conn:
                await incidents.begin(
                    conn,
                    "postgres_went_back",
                    f"shard {number}: Redis had settled up to entry {verdict.known} in generation"
                    f" {declared.redis_generation}; Postgres had entry {declared.mark.seq} in"
                    f" generation {declared.generation}",
                    subject=f"shard {number} at {declared.mark.seq} of {verdict.known}",
                    shard=number,
                    mark=declared.mark.seq,
                    redis_settled=tail.settled,
                    redis_seq=tail.seq,
                    remnant=declared.remnant,
                    replayable_to=tail.valid.seq,
                    fate=verdict.fate.value,
                )

    async def _adopt(
        self, generation: Generation, numbers: Iterable[int], verdicts: Mapping[int, Verdict]
    ) -> None:
        """Open shards as they are. What a Redis came back without, it says nothing of; we may.

        What Postgres lost is settled again first: a shard whose `settled` is above the mark is
        doubted by whoever reads it.
        """
        tails: dict[int, LostTail] = {}
        for number in numbers:
            declared, tail = generation.shards[number], verdicts[number].tail
            before = max(declared.mark.seq, tail.settled)
            mark = await settle_prefix(generation, declared, tail.settled)
            if mark.seq > tail.settled:
                meta = [self.state.shards.keys[number].meta]
                await generation.run(number, "settled", meta, [mark.seq])
            seen = self._seen_of(number)
            tails[number] = LostTail(number, before, mark.seq, tail.seq, seen)

        async def tell(conn: Connection, opened: Collection[int]) -> None:
            await report(conn, generation, [tails[number] for number in opened])

        await generation.open(tails, tell)

    # An operator's wish

    async def force_rebuild(self, numbers: Collection[int] | None, asked_by: str) -> None:
        """Rebuild these shards (None: all) from Postgres, stopped ones too, with an incident each.

        Settles first what continues the journal. Raises FAILURES, Refused, and TimeoutError where
        another vetting does not end within a minute.
        """
        forced = set(range(self.state.shards.count) if numbers is None else numbers)
        async with asyncio.timeout(_ELECTION_S) as patience:
            while True:
                async with vetter(self.state.pool) as elected:
                    if elected:
                        patience.reschedule(None)
                        await self._force(forced, asked_by)
                        return
                await asyncio.sleep(_PAUSE_S)

    async def _force(self, forced: set[int], asked_by: str) -> None:
        await self.state.refresh(force=True)
        nodes = dict.fromkeys(self.state.shards.node_of(number) for number in sorted(forced))
        for node in nodes:
            boot = boot_of(await read_info(node))
            numbers = self._shards_of(node)
            rows = [self.state.rows[number] for number in numbers]
            moved = any(Boot(row.run_id, row.replid) != boot for row in rows)
            report = await make_ready(self.state, node, moved=moved)
            self._ready[str(node.address)] = _Ready(report, moved)
            suspects = Suspects(node, boot, dict.fromkeys(numbers, f"{asked_by} asked for it"))
            await self._vet_node(suspects, forced & set(numbers), asked_by)
