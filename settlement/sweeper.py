"""The sweeper: ends holds and grants that are due on accounts which nobody calls.

Right answers need no sweeper: a script that meets something due says so, and its caller expires it.
But an account that nobody calls would show funds as held that are free, and its entries would come
late. Every 250 ms, for the open shards that this worker claims:

    `due` names accounts ─▶ `account` names their due holds ─▶ `expire` ends at most 100 a call

States of an account in `due`: live (the script lists what is due), cold (loaded first), put off (it
could not be loaded or expired: looked at again after 30 s, and the next ones are asked for in its
place, so that a hundred such accounts stop nobody).

Rules. `due` may be early, never late: where nothing is due, `expire` without holds corrects it.
Expiry needs `lease:finish`, and a clock that agrees (clocks.py). Two sweepers do no harm: a hold
ends once.

Failures. Redis away, no lease, another generation: the shard's turn is over, the next round tries.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from holdfast.codes import Code
from holdfast.errors import HoldfastError, Unavailable
from holdfast.shards import Argument
from holdfast.telemetry import Sampler
from holdfast.wire import ServerError, WireError
from settlement.failures import described
from settlement.state import ShardRow, WorkerState

PERIOD_S = 0.25
# Accounts a shard and round, and holds a call (lua/lib/deadlines.lua). 16 accounts at a time keep
# Redis below 10 ms of expiry in a row; ten calls an account are the 1,000 holds of one that made
# them all in one moment.
_ACCOUNTS: Final = 100
_HOLDS: Final = 100
_AT_ONCE: Final = 16
_CALLS: Final = 10
# `due` answers at most 1,000 names, so no more than 900 can be passed over.
_NAMES_MAX: Final = 1000
_PUT_OFF_S: Final = 30.0
_AWAY_S: Final = 1.0  # for one that could not be loaded because a store was away

_CONTEXT: Final = b'{"request_id":"sweep","actor":"worker"}'


# What Redis says of a key that is not what a script expects: damage of one account.
_DAMAGE: Final = frozenset({"WRONGTYPE", "ERR"})


class _TurnOver(Exception):
    """This shard takes no expiry now."""


class _Stuck(Exception):
    """This account cannot be swept, and will not be in a moment either."""


class Sweeper:
    """The service of one worker that sweeps what it claims."""

    def __init__(
        self,
        state: WorkerState,
        load: Callable[[str], Awaitable[object]],
        sane: Callable[[int], bool],
    ) -> None:
        """`load` makes a cold account live and answers None, or raises HoldfastError; anything else
        that it answers means that the journal does not know it. `sane` says whether the clock of a
        shard can be trusted."""
        self.state = state
        self._load = load
        self._sane = sane
        self._put_off: dict[str, float] = {}
        """Accounts to pass over, and until when; of those that `due` named lately."""
        self._working = asyncio.Semaphore(_AT_ONCE)
        self._logs = Sampler(5.0)

    async def run(self) -> None:
        """A round every 250 ms, until cancelled."""
        while True:
            await self.round()
            await asyncio.sleep(PERIOD_S)

    async def round(self) -> int:
        """One turn for every shard; answers how many entries were made."""
        now = time.monotonic()
        self._put_off = {name: until for name, until in self._put_off.items() if until > now}
        rows = [row for row in self.state.claimed("open") if self._sane(row.number)]
        return sum(await asyncio.gather(*map(self._sweep_shard, rows)))

    async def _sweep_shard(self, row: ShardRow) -> int:
        keys = self.state.shards.keys[row.number].of_shard()
        passed = {name for name in self._put_off if self.state.shards.number_of(name) == row.number}
        limit = min(_ACCOUNTS + len(passed), _NAMES_MAX)
        try:
            code, names = await self.state.shards.run(row.number, "due", row.nonce, keys, [limit])
        except WireError:
            return 0
        if code is not Code.OK:
            return 0
        accounts = [name.decode() for name in names if name.decode() not in passed][:_ACCOUNTS]
        return sum(await asyncio.gather(*(self._sweep_account(row, name) for name in accounts)))

    async def _sweep_account(self, row: ShardRow, account: str) -> int:
        async with self._working:
            try:
                return await self._expire_due(row, account)
            except (HoldfastError, _Stuck) as error:
                self._later(account, error)
            except ServerError as error:
                if error.code in _DAMAGE:
                    self._later(account, error)
            except (_TurnOver, WireError):
                pass
        return 0

    def _later(self, account: str, error: Exception) -> None:
        pause_s = _AWAY_S if isinstance(error, Unavailable) else _PUT_OFF_S
        self._put_off[account] = time.monotonic() + pause_s
        self._logs.log("sweep_failed", type(error).__name__, error=described(error))

    async def _expire_due(self, row: ShardRow, account: str) -> int:
        """Expire what is due of one account, at most 1,000 holds now; answers how many entries."""
        entries, loaded, left = 0, False, list[str]()
        for _ in range(_CALLS):
            code, rest = await self._run(row, "account", account, [account, "", ""])
            if code is Code.MISS and not loaded:
                loaded = True
                if await self._load(account) is not None:
                    raise _Stuck("an account is due that the journal does not know")
                continue
            if code not in (Code.OK, Code.DUE):
                raise _TurnOver
            # Without anything due, the call corrects the account's time in `due`.
            holds = [hold.decode() for hold in rest] if code is Code.DUE else []
            made = await self._expire(row, account, holds)
            entries += made
            if holds and not made:
                if holds == left:
                    raise _Stuck("holds are due that no script can expire")
                left = holds  # or a caller was quicker: they are due no more then
                continue
            if len(holds) < _HOLDS:
                break
        return entries

    async def _expire(self, row: ShardRow, account: str, holds: list[str]) -> int:
        window_ms = self.state.config.key_window_s * 1000
        args: list[Argument] = [account, _CONTEXT, window_ms, *holds]
        code, rest = await self._run(row, "expire", account, args, records=holds)
        if code is not Code.OK:
            raise _TurnOver
        made: int = rest[0]
        return made

    async def _run(
        self,
        row: ShardRow,
        script: str,
        account: str,
        args: list[Argument],
        records: Iterable[str] = (),
    ) -> tuple[Code, list[Any]]:
        shard = self.state.shards.keys[row.number]
        keys = shard.of_account(account) + [shard.record(account, key) for key in records]
        return await self.state.shards.run(row.number, script, row.nonce, keys, args)
