"""The network between the parts breaks, in one way a variant, again and again under load.

Each strike hits one connection of one hop: the API's one connection to Redis, on which every caller
waits, far more often than the others. Of all operations a fifth to a third meet one. Whoever does
not know what became of an operation asks again with its key.

Beside the load, a few callers charge an account and wait until that is settled; accounts that
rest are evicted and loaded again. So there is traffic between the API and Postgres.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from holdfast.client import AsyncClient
from holdfast.client.errors import OutcomeUnknown, Unavailable
from tests.faults.catalogue import Figures, Row, Run
from tests.faults.place import PATIENCE_S, Place, service
from tests.faults.proxy import Kind, Rule
from tests.faults.under_load import Background, under_load

KINDS: tuple[Kind, ...] = ("drop-request", "drop-reply", "half-open", "delay", "cut-reply")

_CALL_TIMEOUT_MS = 300
_SETTINGS = {
    # What a dropped request costs all callers; a connection is given up after twice that. An answer
    # takes some ten milliseconds here, of which the proxy and the load, in one loop, are most.
    "call_timeout_ms": str(_CALL_TIMEOUT_MS),
    "settled_wait_ms": "1000",
    # A backlog in pieces that the proxy passes on well within that.
    "settle_batch": "500",
    # Redis never has less than a megabyte: whatever rests for a second is evicted.
    "evict_idle_s": "1",
    "evict_above_mb": "1",
}
_SETTLERS = 2
# How often each hop is struck. A strike between worker and Postgres may cost 2 s, the driver's
# deadline, after which leases have to be had anew; those between API and Postgres hit few callers.
_HOPS = {"api-redis": 76, "worker-redis": 8, "api-postgres": 12, "worker-postgres": 4}
# How long the callers of a hop wait for an answer.
_DEADLINE_MS = {"redis": _CALL_TIMEOUT_MS, "postgres": 2000}
# Delays, in deadlines: nobody minds, it is near, the answer is late, the connection is given up.
_DELAYS = (0.1, 0.9, 1.3, 2.5)
# A strike hits any of the next few pieces of a hop, not always the first.
_CHANCE = 0.4


async def _run(run: Run) -> Figures:
    wanted, callers = run.sized(10_000, 300), run.sized(96, 24)
    # While the worker waits for Postgres, thousands of operations may be decided: they do not make
    # up for strikes.
    fewest = run.sized(40, 4)
    # The longest comes last: a quick run does without it.
    hops = list(_HOPS)[: run.sized(4, 3)]
    async with (
        service(run.directory, settings=_SETTINGS, seed=run.seed) as place,
        place.client() as client,
        under_load(
            *(run, place), accounts=2 * callers, callers=callers, patience_s=PATIENCE_S
        ) as load,
    ):
        settlers = await _Settlers.open(client)
        strikes = dict.fromkeys(hops, 0)
        async with settlers.charging():
            first = load.load.decided
            while load.load.decided < first + wanted or sum(strikes.values()) < fewest:
                hop = _next_hop(run, strikes)
                await _strike(run, place, load, hop)
                strikes[hop] += 1
                # Some strikes meet what has only just recovered. A connection that is lost again
                # within a second is made anew after one: more of them would take minutes.
                await load.more(run.rng.randint(1, 2 * callers))
            load.note("the network is whole")
        decided = load.load.decided - first
        await place.open_again()
        await load.more(run.sized(500, 100))
        await load.end()
        await settlers.assert_settled()

        verdict = await load.judged()
        await settlers.assert_each_once()
        incidents = await place.incidents()
        assert not incidents, f"nothing was lost, yet there are incidents: {incidents}"
        report = await place.reconcile()
        assert report["exit_code"] == 0, report
        return {
            "operations": decided,
            "strikes": sum(strikes.values()),
            "asked_again": sum(each.attempts > 1 for each in load.history.operations),
            "replayed": sum(each.replay for each in load.history.operations),
            "unknown_applied": verdict.applied,
            "unknown_absent": verdict.absent,
            "settled_charges": settlers.charged,
        }


def _next_hop(run: Run, strikes: dict[str, int]) -> str:
    """Each once, so that a quick run has them all; then by weight."""
    for hop, count in strikes.items():
        if not count:
            return hop
    (hop,) = run.rng.choices(list(strikes), [_HOPS[each] for each in strikes])
    return hop


async def _strike(run: Run, place: Place, load: Background, hop: str) -> None:
    """Let the network break one connection of a hop, and be whole for the others."""
    kind = cast(Kind, run.variant)
    delay_ms = 0
    if kind == "delay":
        delay_ms = round(run.rng.choice(_DELAYS) * _DEADLINE_MS[hop.partition("-")[2]])
    rule = Rule(kind, chance=_CHANCE, delay_ms=delay_ms, at_most=1)
    load.note(f"{hop}: {kind} {delay_ms or ''}")
    place.proxies[hop].rule = rule
    await load.until(rule.struck.is_set, f"{kind} strikes {hop}")
    place.proxies[hop].rule = Rule()


class _Settlers:
    """Charges of one account, each repeated with its key until it is answered."""

    account = "settled"

    def __init__(self, client: AsyncClient) -> None:
        self.charged = 0
        self._client = client
        self._over = False

    @classmethod
    async def open(cls, client: AsyncClient) -> _Settlers:
        await client.put_account(cls.account)
        await client.grant(cls.account, 1_000_000_000, source="promo", key="funds")
        return cls(client)

    @asynccontextmanager
    async def charging(self) -> AsyncIterator[None]:
        """Charge all the time; at the end, until the last charges are answered."""
        async with asyncio.TaskGroup() as group:
            for number in range(_SETTLERS):
                group.create_task(self._charge_on(number))
            try:
                yield
            finally:
                self._over = True

    async def _charge_on(self, number: int) -> None:
        count = 0
        while not self._over:
            count += 1
            await self._charge(f"charge-{number}-{count}")

    async def _charge(self, key: str) -> str | None:
        """Charge one microcredit; how durable that is."""
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            try:
                done = await self._client.charge(self.account, 1, key=key, durability="settled")
            except (OutcomeUnknown, Unavailable) as error:
                if time.monotonic() >= give_up_at:
                    raise AssertionError(f"no answer to {key} in {PATIENCE_S:g} s") from error
                await asyncio.sleep(0.02)
            else:
                self.charged += 1
                return done.durability

    async def assert_settled(self) -> None:
        """Whoever waits until it is settled is told so again; once may be chance."""
        give_up_at, told = time.monotonic() + PATIENCE_S, [""]
        while told[-3:] != ["settled"] * 3:
            assert time.monotonic() < give_up_at, f"after the faults charges are {told}"
            told.append(str(await self._charge(f"after-{len(told)}")))

    async def assert_each_once(self) -> None:
        account = await self._client.get_account(self.account)
        assert account.spent == self.charged, f"{account.spent} for {self.charged} charges of 1"


ROW = Row(
    name="proxy",
    title="the network between API, worker, Redis and Postgres drops requests or replies, goes"
    " half-open, delays, or cuts a reply in two",
    expected="one effect for each key, once every unknown outcome was asked for again",
    run=_run,
    count=1,
    variants=KINDS,
    # A request dropped is one whose caller has to ask again, as of a reply; a delay is the mildest.
    quick_variants=("drop-reply", "half-open", "cut-reply"),
    asked="10,000 operations",
)
