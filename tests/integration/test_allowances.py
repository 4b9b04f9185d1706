"""Allowances over real stores: every period once, whoever looks when, and what is left is carried.

The days are the test's own (tests/allowance_world.py).
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from holdfast import allowances
from holdfast.audit import SYSTEM
from holdfast.embedded import Postgres, Valkey
from holdfast.errors import NotFound
from holdfast.ledger import open_ledger
from settlement.allowances import Allowances, carry
from settlement.queries import sql
from tests.allowance_model import Expected
from tests.allowance_world import CONTEXT, YEAR, World, day
from tests.stack import Stack
from tests.vetted import settle_all

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[World]:
    url = postgres_server.url
    async with Stack(valkey_server.url, url, shards=2, test_clock=True, leases=False) as stack:
        ledger = await open_ledger(stack.config)
        try:
            yield World(stack, ledger)
        finally:
            await ledger.close()


@pytest_asyncio.fixture(loop_scope="module")
async def world(made: World) -> AsyncIterator[World]:
    """One stack for all tests. Each lives through the same years, with accounts of its own."""
    yield made
    await made.stack.pool.execute("UPDATE allowance SET stopped_at = clock_timestamp()")
    await made.stack.pool.execute(
        "UPDATE allowance_refresh SET rolled_over = 0 WHERE rolled_over IS NULL"
    )


# ── a year ───────────────────────────────────────────────────────────────────────────────────────


PLANS = {
    "monthly": {"credits_per_period": 1000, "rollover_cap": 300},
    "yearday": {"credits_per_period": 500, "rollover_cap": 800, "period": "anniversary"},
    "no-rest": {"credits_per_period": 70},
}


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_year_with_workers_that_sleep(world: World, seed: int) -> None:
    """Given accounts on plans of each kind, If workers look now daily, now after months, and
    customers spend at random, I expect every period once, with what a model that counts days has,
    and grants in the journal that add up to the history."""
    dice = random.Random(seed)
    today = day("01-31")
    await world.move_to(today)
    expected: dict[str, Expected] = {}
    for name, plan in PLANS.items():
        account = f"{name}-{seed}"
        await world.define(name, **plan)
        await world.begin(account, name)
        kind = str(plan.get("period", "month"))
        start = today if kind == "anniversary" else today.replace(day=1)
        credits, cap = int(plan["credits_per_period"]), int(plan.get("rollover_cap", 0))
        expected[account] = Expected(kind, today, credits, cap, start)
    turn = 0
    while today < date(YEAR + 1, 2, 3):
        await world.work(*expected)
        for account, told in expected.items():
            told.look()
            amount = dice.choice([0, told.left // 3, told.left])
            if amount:
                await world.spend(account, f"c{turn}", amount)
                told.left -= amount
        turn += 1
        for _ in range(dice.choice([1, 2, 5, 9, 9, 20, 31, 75])):
            today += timedelta(1)
            for told in expected.values():
                told.live(today)
        await world.move_to(today)
    await world.work(*expected)
    for account, told in expected.items():
        told.look()
        periods = await world.check(account)
        assert [{name: row[name] for name in told.periods[0]} for row in periods] == told.periods
        total = sum(row["granted"] + row["rolled_over"] for row in periods)
        assert int((await world.stack.acct(account))["granted"]) == total
        assert any(row["missed"] for row in periods) or seed != 1


async def test_the_last_day_of_a_short_month_begins_a_period(world: World) -> None:
    await world.define("short", credits_per_period=10, period="anniversary")
    await world.move_to(day("01-31"))
    await world.begin("short", "short")
    for text in ("01-31", "02-27", "02-28", "03-30", "03-31", "04-30"):
        await world.move_to(day(text))
        await world.work("short")
    starts = [row["period_start"] for row in await world.check("short")]
    assert starts == [day("01-31"), day("02-28"), day("03-31"), day("04-30")]
    granted = (await world.ledger.get_account("short")).available
    assert granted == 10, "what was left of the others has expired"


# ── several workers, and workers that end ────────────────────────────────────────────────────────


async def test_workers_share_what_is_due(world: World) -> None:
    """Given 120 accounts that are due, If three workers look at once, I expect each to be given its
    period once."""
    await world.define("many", credits_per_period=10, rollover_cap=5)
    await world.move_to(day("03-10"))
    accounts = [f"many{number}" for number in range(120)]
    for account in accounts:
        await world.stack.open(account, "plan", "many")
    await settle_all(world.stack)
    await world.stack.pool.execute(
        "INSERT INTO allowance (account, plan, next_at) SELECT a, 'many', $2"
        " FROM unnest($1::text[]) AS a",
        *(accounts, world.now.date()),
    )
    for text in ("03-10", "04-02"):
        await world.move_to(day(text))
        workers = [Allowances(world.stack.pool) for _ in range(3)]
        done = await asyncio.gather(*(worker.round(world.now) for worker in workers))
        assert sum(refreshed for refreshed, _ in done) == 120
    rows = await world.stack.pool.fetch(
        "SELECT account, period_start FROM allowance_refresh WHERE plan = 'many'"
    )
    assert sorted(map(tuple, rows)) == sorted(
        (account, day(text)) for account in accounts for text in ("03-01", "04-01")
    )
    owed = "SELECT count(*), sum(amount) FROM outbox WHERE metadata ->> 'plan' = 'many'"
    assert tuple(await world.stack.pool.fetchrow(owed)) == (240, 2400)
    await world.stack.pool.execute("DELETE FROM outbox WHERE metadata ->> 'plan' = 'many'")


class Dead(Exception):
    """A worker that was killed."""


class Mortal:
    """A pool whose worker dies before its n-th step: a statement, or what follows a COMMIT."""

    def __init__(self, pool: Any, steps: int) -> None:
        self._pool = pool
        self.steps_left = steps

    def step(self, conn: Any = None) -> None:
        self.steps_left -= 1
        if self.steps_left == 0:
            if conn is not None:
                conn.terminate()  # Postgres ends its transaction
            raise Dead

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        async with self._pool.acquire() as conn:
            yield MortalConnection(conn, self)


class MortalConnection:
    """A connection of it."""

    def __init__(self, conn: Any, mortal: Mortal) -> None:
        self._conn = conn
        self._mortal = mortal

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        async with self._conn.transaction():
            yield
        self._mortal.step()

    def __getattr__(self, name: str) -> Any:
        statement = getattr(self._conn, name)

        async def sent(*args: Any) -> Any:
            self._mortal.step(self._conn)
            return await statement(*args)

        return sent


async def test_a_worker_may_die_at_every_step(world: World) -> None:
    """Given a period that begins and credits to carry, If the worker dies before or after any of
    its statements, I expect the next one to find everything done, or nothing."""
    await world.define("mortal", credits_per_period=100, rollover_cap=30)
    await world.move_to(day("01-15"))
    await world.begin("mortal", "mortal")
    await world.work("mortal")
    healthy, months, died = world.allowances, 1, True
    while died:
        await world.move_to(date(YEAR + months // 12, months % 12 + 1, 3))
        mortal = Mortal(world.stack.pool, months)
        world.allowances = Allowances(mortal)
        try:
            await world.work("mortal")
            died = False
        except (Dead, asyncpg.InterfaceError):
            assert mortal.steps_left <= 0
        world.allowances = healthy
        await world.work("mortal")
        months += 1
    assert months > 12, "all steps of a refresh and of a rolling over were tried"
    periods = await world.check("mortal")
    assert len(periods) == months
    assert {row["granted"] for row in periods} == {100}
    assert {row["rolled_over"] for row in periods[1:]} == {30}


# ── what is carried ──────────────────────────────────────────────────────────────────────────────


async def test_what_is_left_is_known_when_the_journal_has_it(world: World) -> None:
    """Given credits that come back just before a period ends, If the journal is behind, I expect
    nothing to be decided, and all of it to be carried later."""
    await world.define("late", credits_per_period=100, rollover_cap=60)
    await world.move_to(datetime(YEAR, 5, 31, 23, 50, tzinfo=UTC))
    await world.begin("late", "late")
    await world.work("late")
    for key in ("back", "over"):
        await world.ledger.reserve("late", key, amount=50, context=CONTEXT)
    await settle_all(world.stack)
    await world.ledger.release("late", "back", context=CONTEXT)  # settles later

    async def rolled_over() -> Any:
        await world.allowances.round(world.now)
        return (await world.history("late"))[-1]["rolled_over"]

    await world.move_to(datetime(YEAR, 6, 1, 0, 1, tzinfo=UTC))
    assert await rolled_over() is None, "nothing of June has settled"
    waiting = await world.stack.pool.fetch(sql("rollover_waiting"), "", 1)
    found = [(row["account"], row["ready"]) for row in waiting]
    assert found == [("late", False)], "a look ends at what waits, and goes on behind it"
    await world.bring()
    assert await rolled_over() is None, "50 are there that have not been forfeited"
    await world.work("late")
    assert await rolled_over() == 50
    await world.ledger.release("late", "over", context=CONTEXT)
    await world.work("late")
    assert await rolled_over() == 50, "what a hold kept over the end is not carried"
    account = await world.ledger.get_account("late")
    assert (account.available, account.forfeited) == (150, 100)
    await world.check("late")


@pytest.mark.parametrize(
    ("left", "missed", "cap", "carried"),
    [
        (0, [], 50, 0),
        (40, [], 50, 40),
        (60, [], 50, 50),
        (60, [(100, 30)], 500, 130),
        (0, [(100, 30), (100, 30)], 500, 130),
        (60, [(100, 30)], 0, 0),
    ],
)
async def test_missed_periods_carry_what_nobody_could_spend(
    left: int, missed: list[tuple[int, int]], cap: int, carried: int
) -> None:
    assert carry(left, missed, cap) == carried


async def test_a_grant_that_failed_counts_as_missed(world: World) -> None:
    """Given a period whose grant Redis did not take before it was over, I expect its credits to be
    carried as those of a missed one."""
    await world.define("failed", credits_per_period=100, rollover_cap=250)
    await world.move_to(day("02-01"))
    await world.begin("failed", "failed")
    await world.work("failed")
    await world.spend("failed", "c", 40)
    await world.move_to(day("03-31"))
    await world.allowances.round(world.now)  # nobody applies it, and then it is April
    await world.move_to(day("04-02"))
    await world.work("failed")
    rows = await world.history("failed")
    states = {
        row["key"]: row["state"] for row in await world.stack.rows("outbox", account="failed")
    }
    assert states["allowance:" + day("03-01").isoformat()] == "failed"
    # Of February 60 were left: carried into March too late, they were left over of it as well.
    assert [(row["rolled_over"], row["lapsed"]) for row in rows] == [(0, 0), (0, 60), (160, 0)]
    history = await allowances.history(world.pool, "failed")
    assert [each.state for each in history.data] == ["applied", "failed", "applied"]


# ── plans that change, allowances that stop ──────────────────────────────────────────────────────


async def test_another_plan_counts_from_the_next_period(world: World) -> None:
    await world.define("small", credits_per_period=100, rollover_cap=100)
    await world.define("big", credits_per_period=300, rollover_cap=20, period="anniversary")
    await world.define("none")
    await world.move_to(day("06-10"))
    await world.begin("changes", "small", anchor=day("06-16"))
    await world.work("changes")
    await world.move_to(day("06-20"))
    await world.assign("changes", "big")
    await world.work("changes")
    assert len(await world.history("changes")) == 1

    await world.move_to(day("07-05"))
    await world.work("changes")
    await world.move_to(day("07-20"))
    await world.work("changes")
    await world.assign("changes", "none")
    await world.move_to(day("08-20"))
    await world.work("changes")

    rows = await world.check("changes")
    assert [
        (row["period_start"], row["plan"], row["granted"], row["rolled_over"]) for row in rows
    ] == [
        (day("06-01"), "small", 100, 0),
        # From the first to the sixteenth: 15 of the 30 days of a whole period.
        (day("07-01"), "big", 150, 20),
        (day("07-16"), "big", 300, 20),
    ]
    stopped = await allowances.find(world.pool, "changes")
    assert (stopped.plan, stopped.credits_per_period) == ("none", None)
    assert stopped.stopped_at is not None


async def test_a_stopped_allowance_gives_nothing_until_it_is_started_again(world: World) -> None:
    await world.define("stops", credits_per_period=100, rollover_cap=100)
    await world.move_to(day("01-10"))
    await world.begin("stops", "stops")
    await world.work("stops")
    await allowances.stop(world.pool, "stops", by=SYSTEM)
    await allowances.stop(world.pool, "stops", by=SYSTEM)
    audited = await world.stack.rows("audit", account="stops", action="allowance.stop")
    assert len(audited) == 1

    await world.begin("stops", "stops")  # in the same period, which has its credits
    await world.work("stops")
    assert len(await world.history("stops")) == 1
    await allowances.stop(world.pool, "stops", by=SYSTEM)
    await world.move_to(day("05-10"))
    await world.work("stops")
    await world.begin("stops", "stops")
    await world.work("stops")

    rows = await world.history("stops")
    assert [(row["period_start"], row["rolled_over"]) for row in rows] == [
        (day("01-01"), 0),
        (day("05-01"), 0),
    ]
    with pytest.raises(NotFound, match="no allowance"):
        await allowances.stop(world.pool, "nobody", by=SYSTEM)


async def test_a_closed_account_is_given_nothing(world: World) -> None:
    await world.define("closes", credits_per_period=100)
    await world.move_to(day("01-10"))
    await world.begin("closes", "closes")
    await world.ledger.put_account("closes", {"status": "closed"}, context=CONTEXT)
    await world.work()
    assert await world.history("closes") == []
    assert (await allowances.find(world.pool, "closes")).stopped_at is not None
