"""Release, refund, charge, limits: conformance scenarios 43 to 45 and 48 to 52."""

import asyncio

import pytest

from tests.conformance.drivers import Driver
from tests.conformance.world import World

DAY_MS = 86_400_000


async def test_43_release(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.reserve(account, "h1", amount=40)
    first = await api.release(account, "h1", reason="cancelled")
    assert (first.status, first.state, first.funds) == (200, "released", (100, 0))
    async with world.unchanged(account):
        again = await api.release(account, "h1", reason="cancelled")
    assert (again.replayed, again.version) == (True, first.version)


async def test_43_release_after_partial_commits(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.reserve(account, "h1", amount=40)
    await api.commit(account, "h1", "p1", amount=15, final=False)
    done = await api.release(account, "h1")
    assert (done.state, done.committed, done.remaining, done.funds) == ("released", 15, 0, (85, 0))
    assert (await api.refund(account, "r1", of="h1")).amount == 15


async def test_44_refunds_are_bounded(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.reserve(account, "h1", amount=40)
    await api.commit(account, "h1", amount=30)
    first = await api.refund(account, "r1", of="h1", amount=20)
    assert (first.status, first.amount, first.funds, first.of) == (201, 20, (90, 0), "h1")
    async with world.unchanged(account):
        refused = await api.refund(account, "r2", of="h1", amount=11)
        assert (refused.status, refused.code) == (422, "refund_exceeds")
        again = await api.refund(account, "r1", of="h1", amount=20)
        assert again.replayed
    assert (await api.refund(account, "r2", of="h1")).amount == 10
    assert (await api.refund(account, "r3", of="h1")).code == "refund_exceeds"
    answer = await api.account(account)
    assert (answer.funds, answer.spent, answer.refunded) == ((100, 0), 30, 30)


async def test_44_concurrent_refunds(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.charge(account, "c1", amount=30)
    calls = [api.refund(account, f"r{i}", of="c1", amount=7) for i in range(10)]
    outcomes = await asyncio.gather(*calls)
    assert sorted(o.status for o in outcomes) == [201] * 4 + [422] * 6
    assert (await api.account(account)).funds == (98, 0)


async def test_45_refund_of_an_open_hold(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.reserve(account, "h1", amount=40)
    async with world.unchanged(account):
        refused = await api.refund(account, "r1", of="h1")
        assert (refused.status, refused.code) == (409, "hold_open")
        unknown = await api.refund(account, "r1", of="nope")
        assert (unknown.status, unknown.code) == (404, "hold_not_found")


async def test_charge(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    done = await api.charge(account, "c1", amount=30)
    assert (done.status, done.amount, done.funds) == (201, 30, (70, 0))
    async with world.unchanged(account):
        assert (await api.charge(account, "c1", amount=30)).replayed
        refused = await api.charge(account, "c2", amount=71)
        assert (refused.status, refused.code) == (402, "insufficient_credits")
    capped = await api.charge(account, "c3", amount=80, on_shortfall="cap")
    assert (capped.amount, capped.uncollected, capped.funds) == (70, 10, (0, 0))
    debt = await api.charge(account, "c4", amount=5, on_shortfall="debt")
    assert (debt.amount, debt.funds) == (5, (-5, 0))


async def test_46_a_grant_with_one_key_is_one_grant(api: Driver, world: World) -> None:
    account = await world.account(api, 0)
    outcomes = await asyncio.gather(*[api.grant(account, 100, "g1") for _ in range(20)])
    assert sorted(o.status for o in outcomes) == [200] * 19 + [201]
    assert (await api.account(account)).funds == (100, 0)
    other = await api.grant(account, 101, "g1")
    assert (other.status, other.code) == (422, "idempotency_key_reused")


async def test_48_grants_are_drawn_soonest_first(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    now = await world.freeze(account)
    await api.grant(account, 10, "later", expires_ms=now + 20_000)
    await api.grant(account, 10, "sooner", expires_ms=now + 10_000)
    await api.grant(account, 10, "cheap", expires_ms=now + 20_000, priority=5)
    await api.reserve(account, "h1", amount=25)
    left = {g["id"]: g["remaining"] for g in (await api.account(account)).grants}
    assert left == {"cheap": 5}
    await world.advance(account, 15_000)
    done = await api.commit(account, "h1", amount=25)
    assert (done.committed, done.funds) == (25, (105, 0))


async def test_48_the_rest_is_forfeited(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    now = await world.freeze(account)
    await api.grant(account, 10, "g", expires_ms=now + 1000)
    await world.advance(account, 1000)
    await world.sweep()
    answer = await api.account(account)
    assert (answer.funds, answer.forfeited, answer.grants) == ((100, 0), 10, [])
    last = (await world.entries(account))[-1]
    assert (last["type"], last["amount"], last["grant"]) == ("forfeit", "10", "g")


async def test_49_a_return_to_a_grant_that_expired(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    now = await world.freeze(account)
    await api.grant(account, 30, "g", expires_ms=now + 1000)
    await api.reserve(account, "h1", amount=50)
    await world.advance(account, 1000)
    done = await api.commit(account, "h1", amount=10)
    assert (done.committed, done.funds) == (10, (100, 0))
    kinds = [(e["type"], e["amount"]) for e in (await world.entries(account))[-2:]]
    assert kinds == [("commit", "10"), ("forfeit", "20")]
    assert (await api.account(account)).forfeited == 20
    assert (await api.commit(account, "h1", amount=10)).funds == done.funds


async def test_49_a_return_pays_debt_first(api: Driver, world: World) -> None:
    account = await world.account(api, 0)
    now = await world.freeze(account)
    await api.grant(account, 30, "g", expires_ms=now + 60_000)
    await api.reserve(account, "h1", amount=30)
    await api.charge(account, "c1", amount=12, on_shortfall="debt")
    done = await api.release(account, "h1")
    assert done.funds == (18, 0)
    answer = await api.account(account)
    assert (answer.debt, [g["remaining"] for g in answer.grants]) == (0, [18])


async def test_at_most_16_expiring_grants_live(api: Driver, world: World) -> None:
    account = await world.account(api, 0)
    now = await world.freeze(account)
    for i in range(16):
        assert (await api.grant(account, 1, f"g{i}", expires_ms=now + 10_000 * (i + 1))).ok
    assert (await api.grant(account, 5, "merged", expires_ms=now + 25_000)).ok
    assert (await api.grant(account, 7, "beyond", expires_ms=now + 900_000)).ok
    answer = await api.account(account)
    left = {g["id"]: g["remaining"] for g in answer.grants}
    assert (len(left), left["g2"], answer.available) == (16, 6, 28)
    assert sum(left.values()) == 21  # what had nowhere later to go is in base


async def test_50_daily_limit_under_a_race(api: Driver, world: World) -> None:
    account = await world.account(api, 1000, daily_limit=100)
    outcomes = await asyncio.gather(
        api.reserve(account, "h1", amount=60), api.reserve(account, "h2", amount=60)
    )
    assert sorted(o.status for o in outcomes) == [201, 402]
    refused = next(o for o in outcomes if not o.ok)
    assert (refused.code, refused.limit) == ("limit_exceeded", "daily_limit")
    winner = next(o for o in outcomes if o.ok)
    await api.release(account, winner.id)
    assert (await api.account(account)).used_today == 0
    assert (await api.reserve(account, "h3", amount=100)).ok


async def test_50_midnight_between_reserve_and_commit(api: Driver, world: World) -> None:
    account = await world.account(api, 1000, daily_limit=100)
    now = await world.freeze(account)
    to_midnight = DAY_MS - now % DAY_MS
    await world.advance(account, to_midnight - 1)
    await api.reserve(account, "h1", amount=80, ttl_seconds=3600)
    await world.advance(account, 1)
    assert (await api.account(account)).used_today == 0
    await api.reserve(account, "h2", amount=90)
    await api.commit(account, "h1", amount=10)
    answer = await api.account(account)
    assert answer.used_today == 90
    assert (await api.reserve(account, "h3", amount=11)).limit == "daily_limit"


async def test_50_monthly_limit(api: Driver, world: World) -> None:
    account = await world.account(api, 1000, monthly_limit=100)
    await world.freeze(account)
    await api.charge(account, "c1", amount=70)
    await world.advance(account, 32 * DAY_MS)
    assert (await api.account(account)).used_this_month == 0
    await api.charge(account, "c2", amount=70)
    refused = await api.reserve(account, "h1", amount=31)
    assert (refused.code, refused.limit) == ("limit_exceeded", "monthly_limit")


@pytest.mark.parametrize("limit", ["daily_limit", "monthly_limit", "max_hold"])
async def test_51_member_limit_and_funds(api: Driver, world: World, limit: str) -> None:
    account = await world.account(api, 100)
    made = await api.put_member(account, "bob", **{limit: 50})
    assert made.status == 201
    async with world.unchanged(account):
        refused = await api.reserve(account, "h1", amount=51, member="bob")
        assert (refused.code, refused.limit) == ("limit_exceeded", f"member.{limit}")
    assert (await api.reserve(account, "h1", amount=50, member="bob")).ok
    assert (await api.reserve(account, "h2", amount=50, member="eve")).ok
    refused = await api.reserve(account, "h3", amount=1, member="eve")
    assert refused.code == "insufficient_credits"
    member = await api.member(account, "bob")
    assert (member.used_today, member.used_this_month) == (50, 50)
    await api.commit(account, "h1", amount=20)
    assert (await api.member(account, "bob")).used_today == 20


async def test_limits_of_a_member_change_one_at_a_time(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.put_member(account, "bob", daily_limit=50, max_hold=40)
    changed = await api.put_member(account, "bob", monthly_limit=70, daily_limit=None)
    assert changed.status == 200
    assert changed.limits == {"daily_limit": None, "monthly_limit": 70, "max_hold": 40}
    async with world.unchanged(account):
        assert (await api.put_member(account, "bob", max_hold=40)).status == 200


async def test_52_one_key_one_kind(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.reserve(account, "k", amount=40)
    await api.commit(account, "k")
    async with world.unchanged(account):
        for refused in (
            await api.charge(account, "k", amount=40),
            await api.grant(account, 40, "k"),
            await api.refund(account, "k", of="k"),
        ):
            assert (refused.status, refused.code) == (422, "idempotency_key_reused")
            assert refused.errors[0]["field"] == "kind"


async def test_52_a_hold_is_not_made_by_the_key_of_another_kind(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.charge(account, "charge", amount=10)
    await api.refund(account, "refund", of="charge", amount=4)
    await api.grant(account, 4, "grant")
    async with world.unchanged(account):
        for key in ("charge", "refund", "grant"):
            refused = await api.reserve(account, key, amount=4)
            assert (refused.status, refused.code) == (422, "idempotency_key_reused")
            assert refused.errors[0]["field"] == "kind"


async def test_closing_needs_a_zero_balance(api: Driver, world: World) -> None:
    account = await world.account(api, 5)
    async with world.unchanged(account):
        refused = await api.open(account, status="closed")
        assert (refused.status, refused.errors[0]["field"]) == (422, "status")
    await api.charge(account, "c", amount=5)
    assert (await api.open(account, status="closed")).status == 200
    assert (await api.open(account, plan="x")).code == "account_closed"


async def test_closing_needs_every_hold_ended(api: Driver, world: World) -> None:
    """Given a hold all of which was taken in parts, I expect it to keep the account open."""
    account = await world.account(api, 5)
    await api.reserve(account, "h1", amount=5)
    await api.commit(account, "h1", "p1", amount=5, final=False)
    async with world.unchanged(account):
        refused = await api.open(account, status="closed")
        assert (refused.status, refused.errors[0]["field"]) == (422, "status")
    await api.commit(account, "h1", amount=0)
    assert (await api.open(account, status="closed")).status == 200


async def test_an_adjustment_is_signed_and_done_once(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    first = await api.adjust(account, "a1", amount=-40, reason="counted twice")
    assert (first.status, first.amount, first.funds) == (201, -40, (60, 0))
    async with world.unchanged(account):
        again = await api.adjust(account, "a1", amount=-40, reason="counted twice")
        assert (again.status, again.replayed, again.funds) == (200, True, (60, 0))
        for other in ({"amount": 40}, {"amount": -40, "reason": "another"}):
            reused = await api.adjust(account, "a1", **{"reason": "counted twice", **other})
            assert reused.code == "idempotency_key_reused"
        poor = await api.adjust(account, "a2", amount=-61, reason="too much")
        assert (poor.status, poor.code) == (402, "insufficient_credits")
    assert (await api.account(account)).granted == 60


async def test_an_adjustment_pays_debt_first(api: Driver, world: World) -> None:
    account = await world.account(api, 10)
    await api.charge(account, "c1", amount=30, on_shortfall="debt")
    assert (await api.adjust(account, "a1", amount=15, reason="goodwill")).funds == (-5, 0)
    assert (await api.adjust(account, "a2", amount=15, reason="goodwill")).funds == (10, 0)
    assert (await api.account(account)).debt == 0


async def test_overdraft_in_use_is_not_lowered(api: Driver, world: World) -> None:
    account = await world.account(api, 0, overdraft_limit=50)
    await api.charge(account, "c", amount=30)
    refused = await api.open(account, overdraft_limit=29)
    assert (refused.status, refused.errors[0]["field"]) == (422, "overdraft_limit")
    assert (await api.open(account, overdraft_limit=30)).ok


async def test_49_a_partial_commit_leaves_the_draws_in_the_hold(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    now = await world.freeze(account)
    await api.grant(account, 30, "g", expires_ms=now + 1000)
    await api.reserve(account, "h1", amount=50)
    part = await api.commit(account, "h1", "p1", amount=10, final=False)
    assert part.funds == (80, 40)
    answer = await api.account(account)
    assert (answer.grants, answer.forfeited) == ([], 0)
    await world.advance(account, 1000)
    assert (await api.commit(account, "h1", "p2", amount=5, final=False)).funds == (80, 35)
    done = await api.release(account, "h1")
    assert done.funds == (100, 0)
    assert (await api.account(account)).forfeited == 15
