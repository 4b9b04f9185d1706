"""A caller that finishes, one by one, what it was granted before a fault.

Where nothing new is taken on, what is held can still be taken or given back, for a while: each step
must be taken, and have exactly the effect that it asks for.
"""

from __future__ import annotations

import asyncio
import time

from holdfast.client import AsyncClient
from holdfast.client.errors import StoreUnavailable
from tests.faults.program import PATIENCE_S, POLL_S
from tests.faults.stall import Stall

ACCOUNT = "finisher"
LEASE_S = 2.0
# Redis counts leases in milliseconds, and by another clock than this program.
CLOCKS_S = 0.01
_ROUND_S = 0.5
# A round takes 1 s at most, and leases are renewed twice a second: so late may the last one be.
_LATE_S = LEASE_S - _ROUND_S - 1.0
_HOLDS = 80
_PACE_S = 0.03


class Finisher:
    """A caller with holds that it commits and releases, one by one."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self.finished = 0
        self.refused = 0

    @classmethod
    async def make(cls, patient: AsyncClient, client: AsyncClient) -> Finisher:
        """`patient` repeats what is refused for a moment, and prepares; `client` finishes."""
        await patient.put_account(ACCOUNT)
        await patient.grant(ACCOUNT, 1_000_000, source="promo", key="opening")
        await asyncio.gather(
            *(patient.reserve(ACCOUNT, 100, key=f"hold-{number}") for number in range(_HOLDS))
        )
        return cls(client)

    async def finish(self, stall: Stall) -> None:
        """One more step: a hold is extended, taken from, and then committed or released.

        It must be taken. Only where this machine has stood still for about as long as a lease may
        be renewed late, it may be refused first.
        """
        step, number = self.finished % 4, self.finished // 4 % _HOLDS
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                await self._step(step, f"hold-{number}")
            except StoreUnavailable as refusal:
                self.refused += 1
                assert stall.worst_s >= _LATE_S, f"not finished: {refusal.problem}"
                assert time.monotonic() < deadline, f"not finished: {refusal.problem}"
            else:
                self.finished += 1
                break
            await asyncio.sleep(POLL_S)
        await asyncio.sleep(_PACE_S)  # so that steps go on until Postgres is back

    async def _step(self, step: int, hold: str) -> None:
        client = self.client
        if step == 0:
            told = await client.extend(ACCOUNT, hold, ttl_seconds=3600)
            assert (told.state, told.committed) == ("held", 0), told
        elif step == 1:
            told = await client.commit(ACCOUNT, hold, 10, key=f"{hold}-part", final=False)
            assert (told.state, told.committed, told.remaining) == ("held", 10, 90), told
        elif step == 2:
            told = await client.commit(ACCOUNT, hold, 20, key=f"{hold}-more", final=False)
            assert (told.state, told.committed, told.remaining) == ("held", 30, 70), told
        elif hold.endswith(("1", "3", "5", "7", "9")):
            told = await client.commit(ACCOUNT, hold, 40)
            assert (told.state, told.committed, told.remaining) == ("committed", 70, 0), told
        else:
            told = await client.release(ACCOUNT, hold)
            assert (told.state, told.committed, told.remaining) == ("released", 30, 0), told

    async def until_over(self, stall: Stall, gone_ns: int, window_s: float) -> float:
        """Finish until the window is over, and nothing is taken any more.

        Answers for how many seconds things were finished after `gone_ns`, which has a bound.
        """
        last_ns, deadline = gone_ns, time.monotonic() + PATIENCE_S
        while True:
            asked_ns = time.monotonic_ns()
            try:
                await self._step(0, f"hold-{_HOLDS - 1}")
            except StoreUnavailable as refusal:
                assert refusal.problem["store"] == "lease", refusal.problem
                if asked_ns - last_ns > (LEASE_S + stall.worst_s) * 1e9:
                    break  # whatever comes late has come
            else:
                last_ns = asked_ns
            assert time.monotonic() < deadline, "finishing goes on behind its window"
            await asyncio.sleep(_PACE_S)
        lasted_s = (last_ns - gone_ns) / 1e9
        bound_s = window_s + LEASE_S + CLOCKS_S
        assert lasted_s <= bound_s, f"finished {lasted_s:.3f} s after Postgres was gone"
        return lasted_s
