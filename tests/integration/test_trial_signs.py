"""What says that an account pays overrides its trial, once, whoever looks and whoever dies."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from holdfast import plans, trials
from holdfast.audit import SYSTEM
from holdfast.embedded import Postgres, Valkey
from holdfast.errors import Conflict
from holdfast.plans import Definition
from settlement.trials import Trials
from tests.trial_world import BY, SIGNS, World, assign, buy, closed, opened
from tests.vetted import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[World]:
    async with opened(valkey_server.url, postgres_server.url) as world:
        yield world


@pytest.mark.parametrize("sign", SIGNS)
async def test_a_sign_overrides_a_trial_once(
    world: World, sign: str, capsys: pytest.CaptureFixture[str]
) -> None:
    account = await world.open()
    await world.start(account)
    await world.granted(account, 1000)
    await world.look()
    assert (await trials.find(world.ledger.pool, account)).state == "active"
    capsys.readouterr()

    await SIGNS[sign](world, account)
    row = await world.ended(account)
    assert (row["state"], row["ended_by"], row["reason"]) == ("overridden", "system", None)
    assert json.loads(row["signs"]) == [sign]
    assert await world.look() == 0
    assert await world.audited(account) == ["trial.start", "trial.override"]
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    told = [line for line in lines if line["event"] == "trial_overridden"]
    assert [(line["account"], line["signs"]) for line in told] == [(account, [sign])]
    assert (await world.ledger.get_account(account)).available >= 1000  # what was given stays


@pytest.mark.parametrize("sign", SIGNS)
async def test_who_shows_a_sign_gets_no_trial(world: World, sign: str) -> None:
    account = await world.open()
    await SIGNS[sign](world, account)
    with pytest.raises(Conflict, match=sign) as refusal:
        await trials.start(world.ledger, account, 1000, by=BY)
    assert refusal.value.code == "trial_refused"
    assert refusal.value.members == {"signs": [sign]}
    assert await world.stack.rows("trial", account=account) == []
    assert await world.stack.rows("outbox", account=account, key="trial") == []


async def test_a_plan_that_becomes_a_paid_one_overrides_the_trials_on_it(world: World) -> None:
    account, other = await world.open(), await world.open()
    for each in (account, other):
        await world.start(each)
    await assign(world, account, "free", max_hold=5)
    await assign(world, other, "also-free")
    await world.look()
    assert (await trials.find(world.ledger.pool, account)).state == "active"
    await plans.put(world.ledger.pool, "free", Definition(max_hold=5, paid=True), by=SYSTEM)
    assert json.loads((await world.ended(account))["signs"]) == ["paid_plan"]
    assert (await trials.find(world.ledger.pool, other)).state == "active"


async def test_all_signs_are_named(world: World) -> None:
    account = await world.open()
    await world.start(account)
    for sign in ("purchase", "overdraft_limit", "customer_id"):
        await SIGNS[sign](world, account)

    async def settled() -> bool:
        row = await world.stack.row("account", account=account)
        return row is not None and row["metadata"] is not None

    await until(settled)
    row = await world.ended(account)
    assert json.loads(row["signs"]) == ["purchase", "customer_id", "overdraft_limit"]


async def test_a_payment_that_was_refused_is_no_sign(world: World) -> None:
    account = await world.open()
    await world.start(account)
    await buy(world, account)
    await world.stack.pool.execute("UPDATE purchase SET refused = true WHERE account = $1", account)
    await world.look()
    assert (await trials.find(world.ledger.pool, account)).state == "active"


async def test_a_trial_ends_when_its_credits_expire(world: World) -> None:
    account = await world.open()
    later = datetime.now(UTC) + timedelta(days=7)
    await trials.start(world.ledger, account, 1000, expires_at=later, by=BY)
    await world.granted(account, 1000)
    [grant] = (await world.ledger.get_account(account)).grants
    assert grant.expires_ms == int(later.timestamp() * 1000)
    await world.look()
    assert (await trials.find(world.ledger.pool, account)).state == "active"
    await world.stack.pool.execute(
        "UPDATE trial SET expires_at = clock_timestamp() WHERE account = $1", account
    )
    row = await world.ended(account)
    assert (row["state"], row["ended_by"], row["reason"]) == ("ended", "system", "expired")
    assert await world.audited(account) == ["trial.start", "trial.end"]


# ── several workers, and one that dies ───────────────────────────────────────────────────────────


async def test_what_one_worker_is_at_the_other_leaves_to_it(world: World) -> None:
    account = await world.open()
    await world.start(account)
    await buy(world, account)
    first, second = world.workers
    async with closed(world, "audit") as somebody_waits:
        looking = asyncio.create_task(first.round())
        await somebody_waits()  # the trial is overridden, in a transaction that has not ended
        assert await second.round() == 0
    assert await looking == 1
    assert await world.audited(account) == ["trial.start", "trial.override"]


async def test_a_worker_that_dies_between_leaves_it_to_the_next(world: World) -> None:
    account = await world.open()
    await world.start(account)
    await buy(world, account)
    first, second = world.workers
    async with closed(world, "audit") as somebody_waits:
        looking = asyncio.create_task(first.round())
        await somebody_waits()
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    assert (await trials.find(world.ledger.pool, account)).state == "active"
    assert await second.round() == 1
    assert await world.audited(account) == ["trial.start", "trial.override"]


async def test_a_round_walks_all_of_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given looks of two trials and rounds of two looks, I expect rounds to go on where the one
    before ended, and the last of five to be found."""
    monkeypatch.setattr("settlement.trials._TOGETHER", 2)
    monkeypatch.setattr("settlement.trials._LOOKS", 2)
    await world.stack.pool.execute(
        "UPDATE trial SET state = 'ended', ended_at = clock_timestamp(), ended_by = 'test'"
        " WHERE state = 'active'"
    )
    accounts = [await world.open() for _ in range(5)]
    for account in accounts:
        await world.start(account)
    await buy(world, accounts[-1])
    worker = Trials(world.stack.pool)
    assert [await worker.round() for _ in range(3)] == [0, 1, 0]
