"""A load through the ledger in this process, without HTTP: as many transitions as the machine has.

    history = Tally()
    async with direct(place, history, seed=7, accounts=5_000) as load:
        await load.open()
        await load.run(250_000, callers=128)

The same accounts, operations and amounts as those of load.py; what an answer means is the same too.
Nothing below repeats anything.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from holdfast.config import Config
from holdfast.errors import HoldfastError, OverloadedError, StoreUnavailable, Unavailable
from holdfast.ledger import Ledger, open_ledger
from holdfast.model import Context, Hold, Movement
from holdfast.replay_plan import ZipfDraw
from tests.faults.history import History, Operation
from tests.faults.mix import Draws, Mix, Plan, Purse
from tests.faults.place import PATIENCE_S, Place

__all__ = ["Direct", "direct"]

# What a shard that is closed or behind is given before it is asked again.
_PAUSE_S = 0.05
_OPENERS = 64
# An outcome that is unknown is asked for again, with the key, so often at most: for 5 s and more.
_ATTEMPTS = 100


class Direct:
    """Callers of one ledger, on accounts of their own."""

    def __init__(
        self, ledger: Ledger, history: History, *, seed: int, accounts: int, mix: Mix
    ) -> None:
        self.history = history
        self.purses = [Purse(f"a{seed}-{number:05d}") for number in range(accounts)]
        self.done = 0
        """Operations that were acknowledged."""
        self.refused: Counter[str] = Counter()
        """Calls that a store which is closed, behind or too busy sent away, by code."""
        self._ledger = ledger
        self._mix = mix
        self._seed = seed
        self._zipf = ZipfDraw(accounts, mix.zipf_exponent, seed=f"zipf/{seed}")
        self._context = Context("", "test")
        self._calls: dict[str, Callable[[Operation], Awaitable[Hold | Movement]]] = {
            "grant": self._grant,
            "charge": self._charge,
            "refund": self._refund,
            "reserve": self._reserve,
            "commit": self._commit,
            "partial": self._commit,
            "release": self._release,
            "extend": self._extend,
        }

    async def open(self) -> None:
        """Open all accounts and fund them."""
        rest = iter(self.purses)
        funds = Plan("grant", None, {"amount": self._mix.funds, "source": "purchase"})

        async def work() -> None:
            for purse in rest:
                limited = random.Random(purse.name).random() < self._mix.overdraft_share
                settings = {"overdraft_limit": self._mix.funds // 10} if limited else {}
                await self._put(purse.name, settings)
                await self._carry_out(funds, purse)

        async with asyncio.TaskGroup() as group:
            for _ in range(_OPENERS):
                group.create_task(work())

    async def _put(self, account: str, settings: dict[str, Any]) -> None:
        """Open an account, also where stores that are busy send the call away at first."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._ledger.put_account(account, settings, context=self._context)
            except Unavailable:
                if attempt == _ATTEMPTS:
                    raise
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    async def run(self, operations: int, *, callers: int) -> None:
        """Until so many more operations were acknowledged."""
        wanted = self.done + operations

        async def work(number: int) -> None:
            rng = random.Random(f"direct/{self._seed}/{self.done}/{number}")
            draws = Draws(self._mix, rng)
            while self.done < wanted:
                purse = self.purses[self._zipf.draw()]
                await self._carry_out(draws.next(purse, time.time()), purse)

        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                group.create_task(work(number))

    async def _carry_out(self, plan: Plan, purse: Purse) -> None:
        """Ask until it is known what became of it."""
        key = f"{plan.kind[:2]}-{self._seed}-{len(self.history)}"
        hold = key if plan.kind == "reserve" else plan.hold
        operation = self.history.ask(
            plan.kind, purse.name, key, hold=hold, amount=plan.amount, sent=plan.sent
        )
        while not await self._attempt(operation) and operation.attempts < _ATTEMPTS:
            self.refused[operation.code] += 1
            await asyncio.sleep(_PAUSE_S)
        if operation.outcome == "unknown" and not operation.maybe:
            operation.outcome = "refused"
        self.history.end(operation)
        if operation.outcome == "ok":
            self.done += 1
            purse.learn(operation, self._mix.ttl_s, time.time())

    async def _attempt(self, operation: Operation) -> bool:
        """Ask once; whether asking again is of no use."""
        operation.attempts += 1
        try:
            done = await self._calls[operation.kind](operation)
        except Unavailable as error:
            operation.code = error.code
            operation.maybe |= not isinstance(error, StoreUnavailable | OverloadedError)
            return False
        except HoldfastError as error:
            operation.code, operation.outcome = error.code, "refused"
            return True
        operation.code, operation.outcome, operation.replay = "", "ok", done.replayed
        operation.answer = _answer(done)
        return True

    # One call each

    async def _grant(self, operation: Operation) -> Movement:
        sent = dict(operation.sent)
        if (at := sent.get("expires_at")) is not None:
            sent["expires_ms"] = int(datetime.fromisoformat(at).timestamp()) * 1000
        return await self._ledger.grant(
            operation.account, operation.key, **sent, context=self._context
        )

    async def _charge(self, operation: Operation) -> Movement:
        return await self._ledger.charge(
            operation.account, operation.key, **operation.sent, context=self._context
        )

    async def _refund(self, operation: Operation) -> Movement:
        return await self._ledger.refund(
            operation.account, operation.key, **operation.sent, context=self._context
        )

    async def _reserve(self, operation: Operation) -> Hold:
        return await self._ledger.reserve(
            operation.account, operation.key, **operation.sent, context=self._context
        )

    async def _commit(self, operation: Operation) -> Hold:
        return await self._of_hold(self._ledger.commit, operation)

    async def _release(self, operation: Operation) -> Hold:
        return await self._of_hold(self._ledger.release, operation)

    async def _extend(self, operation: Operation) -> Hold:
        return await self._of_hold(self._ledger.extend, operation)

    async def _of_hold(self, call: Callable[..., Awaitable[Hold]], operation: Operation) -> Hold:
        assert operation.hold is not None
        return await call(
            operation.account,
            operation.hold,
            key=operation.key,
            **operation.sent,
            context=self._context,
        )


def _answer(done: Hold | Movement) -> dict[str, Any]:
    """What a history needs of an answer."""
    answer = {"amount": done.amount, "available": done.available}
    if isinstance(done, Hold):
        return {
            **answer,
            "state": done.state,
            "committed": done.committed,
            "remaining": done.remaining,
        }
    return answer


@asynccontextmanager
async def direct(
    place: Place, history: History, *, seed: int, accounts: int, mix: Mix | None = None
) -> AsyncIterator[Direct]:
    """A load on a place's stores, past its proxies."""
    settings = {
        name: value for name, value in place.settings.items() if name in Config.model_fields
    }
    config = Config(
        redis_url=place.redis.url,
        database_url=place.postgres.dsn,
        prefix=place.postgres.prefix,
        shards=place.postgres.shards,
        **settings,
    )
    ledger = await open_ledger(config)
    try:
        await _until_open(ledger)
        yield Direct(ledger, history, seed=seed, accounts=accounts, mix=mix or Mix())
    finally:
        await ledger.close()


async def _until_open(ledger: Ledger) -> None:
    """Wait until it knows every shard's generation."""
    deadline = time.monotonic() + PATIENCE_S
    while closed := [view for view in await ledger.survey() if not view.open]:
        assert time.monotonic() < deadline, f"the ledger is closed: {closed}"
        await asyncio.sleep(_PAUSE_S)
