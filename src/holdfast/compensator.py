"""What gives the credits that are owed: a few rows at a time, each effect once.

    claim ─▶ look at the journal ─▶ shown: applied
                                 ─▶ under review: tried again later
                                 ─▶ lacking: give it, look again for a moment ─▶ applied, or later

To give is to refund through the ledger, or, without something to refund, to hand a grant to the
outbox. A claim counts the attempt before it is made and lasts a minute: whoever dies at it leaves a
row that others take up. Nothing is held in Postgres while Redis works.

Once: the effect's idempotency key derives from the origin, and its record in Redis decides. That
record ends with its window (a day), and attempts may be further apart; so from the second one on,
where Redis has none, the journal must lack it too, as of the account's last refund
(lua/refund.lua). What Redis answers is never taken for the end: an entry that is lost before it is
settled is made again.

Tried again: what a store that is away, an account under review or an open hold refuses, after 5,
10, 20 s and so on up to an hour, 20 times in all, which is some ten hours. Every other refusal is
final.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

from holdfast.compensations import Compensation, read
from holdfast.errors import HoldfastError, StoreUnavailable
from holdfast.ledger import Ledger
from holdfast.model import Context
from holdfast.outbox import enqueue
from holdfast.postgres import Pool
from holdfast.queries import sql
from holdfast.telemetry import log

MAX_ATTEMPTS: Final = 20
_FIRST_PAUSE_S: Final = 5.0
_LAST_PAUSE_S: Final = 3600.0
# Attempts at a time: each may take a connection of the eight of its process, which has other work.
_AT_ONCE: Final = 4
# Loads and expiries that one refund may need, at the call time-out; beyond that it is tried again.
_GIVE_S: Final = 20.0
# What a gate needs at most to find the generation that serves (gate.py), four times over.
_KNOWN_S: Final = 1.0
# A settle shows an entry within some 50 ms, the outbox takes up a row within 250 ms.
_SHOWN_S: Final = 2.0
_LOOK_S: Final = 0.05
# A claim outlasts its attempt, and the note of what came of it.
_CLAIM_S: Final = 60.0
# What is asked for by hand ends while somebody waits for the answer.
RUN_MAX: Final = 100
_RUN_S: Final = 5.0
_ERROR_MAX: Final = 500
_METADATA_REASON_MAX: Final = 256

# Refusals that time undoes: a hold ends within a day, an operator decides.
_PASSING: Final = frozenset({"hold_open", "account_frozen"})


@dataclass(slots=True)
class Tally:
    """What came of some attempts; those of rows that had been tried before are `retries`."""

    tried: int = 0
    retries: int = 0
    applied: int = 0
    waiting: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """Why a compensation is not applied yet, and whether that stays so."""

    error: str
    final: bool = False


# Redis or the outbox has it, so that there is nothing to give up.
_GIVEN: Final = _Obstacle("given, and not yet in the journal")


def pause_s(attempts: int) -> float:
    """How long to wait after so many attempts: 5 s, doubled each time, at most an hour."""
    return min(_FIRST_PAUSE_S * 2.0 ** (attempts - 1), _LAST_PAUSE_S)


class Compensator:
    """Gives what is owed, for one process. Several at once share the rows."""

    def __init__(
        self, pool: Pool, ledger: Ledger, reached: Callable[[str], None] = lambda _point: None
    ) -> None:
        """`reached` is called at each of settlement/failpoints.py's COMPENSATION_POINTS."""
        self._pool = pool
        self._ledger = ledger
        self._reached = reached

    async def round(self) -> Tally:
        """Try the first few that are due. Raises StoreUnavailable where Postgres is away."""
        tally = Tally()
        rows = await self._pool.fetch(sql("compensation_claim_due"), _AT_ONCE, _CLAIM_S)
        await self._try(rows, tally)
        return tally

    async def run(self) -> Tally:
        """Try each that is pending once, due or not: at most 100, for some five seconds."""
        loop = asyncio.get_running_loop()
        until, after, tally = loop.time() + _RUN_S, 0, Tally()
        while tally.tried < RUN_MAX and loop.time() < until:
            rows = await self._pool.fetch(
                sql("compensation_claim_after"), _AT_ONCE, _CLAIM_S, after
            )
            if not rows:
                break
            after = max(row["id"] for row in rows)
            await self._try(rows, tally)
        return tally

    async def _try(self, rows: Sequence[Any], tally: Tally) -> None:
        """One attempt at each of these rows, and the notes of what came of it."""
        if not rows:
            return
        claimed = {row["id"]: read(row) for row in rows}
        tally.tried += len(claimed)
        tally.retries += sum(owed.attempts > 1 for owed in claimed.values())
        self._reached("compensation_claimed")
        found = await self._look(claimed)
        lacking = [claimed[each] for each, obstacle in found.items() if obstacle is None]
        answers = await asyncio.gather(*(self._give(owed) for owed in lacking))
        found |= {owed.id: answer for owed, answer in zip(lacking, answers, strict=True)}
        obstacles = {each: obstacle for each, obstacle in found.items() if obstacle is not None}
        obstacles |= await self._wait(found.keys() - obstacles.keys())
        applied = claimed.keys() - obstacles.keys()
        if applied:
            await self._pool.fetch(sql("compensation_applied"), list(applied))
            self._reached("compensation_noted")
        tally.applied += len(applied)
        for each, obstacle in obstacles.items():
            await self._note(claimed[each], obstacle, tally)

    async def _look(self, ids: Iterable[int]) -> dict[int, _Obstacle | None]:
        """Those that the journal lacks, with what forbids to give them, if anything does."""
        rows = await self._pool.fetch(sql("compensation_look"), list(ids))
        return {row["id"]: _obstacle(row) for row in rows if not row["shown"]}

    async def _wait(self, given: Set[int]) -> dict[int, _Obstacle]:
        """What is given comes to the journal in a moment: those that it lacks after two seconds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _SHOWN_S
        left = await self._look(given) if given else {}
        while any(obstacle is None for obstacle in left.values()) and loop.time() < until:
            await asyncio.sleep(_LOOK_S)
            left = await self._look(given)
        return {each: obstacle or _GIVEN for each, obstacle in left.items()}

    async def _give(self, owed: Compensation) -> _Obstacle | None:
        """Refund or grant it, and say what is in the way, if anything is."""
        try:
            async with asyncio.timeout(_GIVE_S):
                await (self._grant(owed) if owed.of is None else self._refund(owed, owed.of))
        except HoldfastError as error:
            passing = error.retryable or error.code in _PASSING
            return _Obstacle(f"{error.code}: {error.detail}", final=not passing)
        except TimeoutError:
            return _Obstacle(f"the attempt took longer than {_GIVE_S:.0f} s")
        except Exception as error:  # a bug that one row meets holds up no other
            log("compensation_broke", compensation=owed.id, exc_info=error)
            return _Obstacle(f"a bug: {type(error).__name__}: {error}")
        self._reached("compensation_given")
        return None

    async def _refund(self, owed: Compensation, of: str) -> None:
        """Refund it. A process that has just begun learns in a moment which generation serves."""
        until = asyncio.get_running_loop().time() + _KNOWN_S
        while True:
            try:
                return await self._refund_now(owed, of)
            except StoreUnavailable as error:
                if error.store != "fenced" or asyncio.get_running_loop().time() > until:
                    raise
            await asyncio.sleep(_LOOK_S)

    async def _refund_now(self, owed: Compensation, of: str) -> None:
        await self._ledger.refund(
            owed.account,
            owed.key,
            of=of,
            amount=owed.amount,
            metadata={"compensation": owed.id},
            context=Context(f"compensation-{owed.id}", owed.actor, reason=owed.reason),
            durability="memory",
            owed=owed.attempts > 1,
        )

    async def _grant(self, owed: Compensation) -> None:
        """Hand it to the outbox, which grants it once; that it was handed over before is fine."""
        async with self._pool.acquire() as conn, conn.transaction():
            await enqueue(
                conn,
                account=owed.account,
                key=owed.key,
                origin=owed.key,
                amount=owed.amount,
                source="adjustment",
                metadata={
                    "compensation": owed.id,
                    "actor": owed.actor,
                    "reason": owed.reason[:_METADATA_REASON_MAX],
                },
            )
            self._reached("compensation_queued")

    async def _note(self, owed: Compensation, obstacle: _Obstacle, tally: Tally) -> None:
        """Say in the row what was in the way, and when it is tried again, if it is."""
        error = obstacle.error[:_ERROR_MAX]
        note = (owed.id, owed.claimed_until, error)
        given_up = owed.attempts >= MAX_ATTEMPTS and obstacle is not _GIVEN
        if obstacle.final or given_up:
            await self._pool.fetch(sql("compensation_failed"), *note)
            log("compensation_failed", compensation=owed.id, attempts=owed.attempts, error=error)
            tally.failed += 1
        else:
            await self._pool.fetch(sql("compensation_later"), *note, pause_s(owed.attempts))
            tally.waiting += 1


def _obstacle(row: Any) -> _Obstacle | None:
    """What a row of `compensation_look` says is in the way."""
    if row["refused"] is not None:
        return _Obstacle(row["refused"], final=True)
    if row["voided"]:
        return _Obstacle("an operator voided its entry in quarantine", final=True)
    if row["quarantined"]:
        return _Obstacle("account_frozen: the account is under review by an operator")
    return None
