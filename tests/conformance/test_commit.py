"""Commit: conformance scenarios 18 to 30 (31 comes with metering)."""

import asyncio

import pytest

from tests.conformance.drivers import Driver, HttpDriver
from tests.conformance.world import World


async def test_18_all(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.reserve(account, "h1", amount=40)
    done = await api.commit(account, "h1")
    assert (done.status, done.state, done.committed, done.funds) == (200, "committed", 40, (60, 0))
    assert (await api.account(account)).spent == 40


async def test_19_part_of_it(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.reserve(account, "h1", amount=40)
    done = await api.commit(account, "h1", amount=13)
    assert (done.state, done.committed, done.remaining, done.funds) == ("committed", 13, 0, (87, 0))


async def test_20_nothing(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.reserve(account, "h1", amount=40)
    done = await api.commit(account, "h1", amount=0)
    assert (done.state, done.committed, done.funds) == ("committed", 0, (100, 0))


async def test_21_over_the_hold_with_headroom(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.reserve(account, "h1", amount=40)
    done = await api.commit(account, "h1", amount=55)
    assert (done.committed, done.uncollected, done.funds) == (55, 0, (45, 0))
    last = (await world.entries(account))[-1]
    assert (last["type"], last["amount"], last["available"]) == ("commit", "55", "45")


async def test_22_over_without_headroom_rejected(api: Driver, world: World) -> None:
    account = await world.account(api, 50)
    await api.reserve(account, "h1", amount=40)
    async with world.unchanged(account):
        refused = await api.commit(account, "h1", amount=60)
    assert (refused.status, refused.code) == (402, "commit_exceeds_funds")
    assert (await api.commit(account, "h1", amount=50)).funds == (0, 0)


async def test_22_over_without_headroom_capped(api: Driver, world: World) -> None:
    account = await world.account(api, 50)
    await api.reserve(account, "h1", amount=40)
    done = await api.commit(account, "h1", amount=60, on_shortfall="cap")
    assert (done.committed, done.uncollected, done.funds) == (50, 10, (0, 0))


async def test_22_over_without_headroom_as_debt(api: Driver, world: World) -> None:
    account = await world.account(api, 50)
    await api.reserve(account, "h1", amount=40)
    done = await api.commit(account, "h1", amount=60, on_shortfall="debt")
    assert (done.committed, done.uncollected, done.funds) == (60, 0, (-10, 0))
    assert (await api.account(account)).debt == 10


async def test_23_debt_is_paid_first(api: Driver, world: World) -> None:
    account = await world.account(api, 50)
    await api.reserve(account, "h1", amount=40)
    await api.commit(account, "h1", amount=60, on_shortfall="debt")
    assert (await api.reserve(account, "h2", amount=1)).status == 402
    assert (await api.grant(account, 4)).funds == (-6, 0)
    assert (await api.grant(account, 10)).funds == (4, 0)
    assert (await api.account(account)).debt == 0


@pytest.mark.parametrize("key", [None, "c1"])
async def test_24_a_retry_is_the_first_result(api: Driver, world: World, key: str | None) -> None:
    account = await world.account(api, 100)
    await api.reserve(account, "h1", amount=40)
    first = await api.commit(account, "h1", key, amount=13)
    await api.reserve(account, "h2", amount=5)
    async with world.unchanged(account):
        again = await api.commit(account, "h1", key, amount=13)
        other = await api.commit(account, "h1", key, amount=14)
    assert (again.status, again.replayed) == (200, True)
    for name in ("state", "committed", "remaining", "available", "held", "version"):
        assert again.body[name] == first.body[name], name
    assert (other.status, other.code) == (422, "idempotency_key_reused")
    assert other.errors[0]["field"] == "amount"


async def test_25_a_new_key_on_a_hold_that_ended(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.reserve(account, "h1", amount=40)
    await api.commit(account, "h1", "c1", amount=13)
    await api.reserve(account, "h2", amount=40)
    await api.release(account, "h2", "r1")
    async with world.unchanged(account):
        refused = await api.commit(account, "h1", "c2", amount=13)
        assert (refused.status, refused.code) == (409, "hold_committed")
        refused = await api.commit(account, "h2", "c2", amount=13)
        assert (refused.status, refused.code) == (409, "hold_released")
        refused = await api.release(account, "h1")
        assert (refused.status, refused.code) == (409, "hold_committed")
        refused = await api.release(account, "h1", "c1")
        assert (refused.status, refused.code) == (422, "idempotency_key_reused")


async def test_26_unknown_and_foreign_holds(api: Driver, world: World) -> None:
    one, other = await world.account(api, 100), await world.account(api, 100)
    await api.reserve(one, "h1", amount=40)
    await api.charge(one, "paid", amount=1)
    for account, hold in ((one, "nope"), (other, "h1"), (one, "paid")):
        for refused in (await api.commit(account, hold), await api.release(account, hold)):
            assert (refused.status, refused.code) == (404, "hold_not_found")
    refused = await api.commit(world.name(), "h1")
    assert (refused.status, refused.code) == (404, "account_not_found")


async def test_27_concurrent_commits_have_one_effect(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.reserve(account, "h1", amount=40)
    calls = [api.commit(account, "h1", amount=13) for _ in range(100)]
    outcomes = await asyncio.gather(*calls)
    assert {o.status for o in outcomes} == {200}
    assert sum(not o.replayed for o in outcomes) == 1
    assert (await api.account(account)).funds == (87, 0)


async def test_27_commit_beside_release(api: Driver, world: World) -> None:
    for i in range(10):
        account = await world.account(api, 100)
        await api.reserve(account, "h1", amount=40)
        calls = [api.commit(account, "h1", "c"), api.release(account, "h1", "r")]
        if i % 2:
            calls.reverse()
        outcomes = await asyncio.gather(*calls)
        assert sorted(o.status for o in outcomes) == [200, 409]
        winner = next(o for o in outcomes if o.ok)
        loser = next(o for o in outcomes if not o.ok)
        assert loser.code == f"hold_{winner.state}"


async def test_28_partial_commits(api: Driver, world: World) -> None:
    account = await world.account(api, 40)
    await api.reserve(account, "h1", amount=40)
    first = await api.commit(account, "h1", "p1", amount=5, final=False)
    assert (first.state, first.committed, first.remaining, first.funds) == ("held", 5, 35, (0, 35))
    again = await api.commit(account, "h1", "p1", amount=5, final=False)
    assert (again.replayed, again.remaining) == (True, 35)
    second = await api.commit(account, "h1", "p2", amount=5, final=False)
    assert (second.committed, second.remaining) == (10, 30)
    last = await api.commit(account, "h1", "p3", amount=3)
    assert (last.state, last.committed, last.remaining, last.funds) == ("committed", 13, 0, (27, 0))
    assert (await api.commit(account, "h1", "p1", amount=5, final=False)).remaining == 35
    assert (await api.account(account)).spent == 13


async def test_28_partials_over_the_hold(api: Driver, world: World) -> None:
    account = await world.account(api, 40)
    await api.reserve(account, "h1", amount=30)
    await api.commit(account, "h1", "p1", amount=25, final=False)
    async with world.unchanged(account):
        refused = await api.commit(account, "h1", "p2", amount=16, final=False)
        assert refused.code == "commit_exceeds_funds"
    over = await api.commit(account, "h1", "p3", amount=10, final=False)
    assert (over.committed, over.remaining, over.funds) == (35, 0, (5, 0))
    capped = await api.commit(account, "h1", "p4", amount=10, final=False, on_shortfall="cap")
    assert (capped.committed, capped.uncollected, capped.funds) == (40, 5, (0, 0))


async def test_28_a_partial_needs_a_key(http: HttpDriver, world: World) -> None:
    account = await world.account(http, 40)
    await http.reserve(account, "h1", amount=30)
    async with world.unchanged(account):
        refused = await http.commit(account, "h1", amount=1, final=False)
    assert (refused.status, refused.code) == (400, "idempotency_key_missing")


async def test_a_hold_takes_64_keys_and_can_still_end(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.reserve(account, "h1", amount=100)
    for i in range(63):
        assert (await api.commit(account, "h1", f"p{i}", amount=1, final=False)).ok
    async with world.unchanged(account):
        refused = await api.commit(account, "h1", "p63", amount=1, final=False)
        assert (refused.status, refused.errors[0]["field"]) == (422, "Idempotency-Key")
    done = await api.commit(account, "h1", "end", amount=0)
    assert (done.committed, done.funds) == (63, (37, 0))


async def test_29_frozen_accounts_finish(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.reserve(account, "h1", amount=40)
    await api.reserve(account, "h2", amount=10)
    await api.open(account, status="frozen")
    assert (await api.commit(account, "h1", amount=13)).ok
    assert (await api.release(account, "h2")).ok
    assert (await api.reserve(account, "h3", amount=1)).code == "account_frozen"
    assert (await api.extend(account, "h2", "x", add_amount=1)).code == "account_frozen"


async def test_30_a_lost_answer_repeated_is_one_effect(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.reserve(account, "h1", amount=40)
    lost = asyncio.create_task(api.commit(account, "h1", "c1", amount=13))
    await asyncio.sleep(0)
    lost.cancel()
    await asyncio.gather(lost, return_exceptions=True)
    assert (await api.commit(account, "h1", "c1", amount=13)).committed == 13
    assert (await api.account(account)).funds == (87, 0)
