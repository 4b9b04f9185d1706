"""Expiry and extension: conformance scenarios 32 to 38 and 40 to 42, by a clock that tests move.

The sweeper is off in this world: every scenario shows that answers do not need it. Scenario 36 runs
the real sweeper beside the callers.
"""

import asyncio

from tests.conformance.drivers import Driver, HttpDriver
from tests.conformance.world import World


async def test_32_the_deadline_is_exclusive(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await world.freeze(account)
    await api.reserve(account, "h1", amount=40, ttl_seconds=60)
    await api.reserve(account, "h2", amount=40, ttl_seconds=60)
    await world.advance(account, 59_999)
    assert (await api.commit(account, "h1")).late is False
    await world.advance(account, 1)
    late = await api.commit(account, "h2")
    assert (late.state, late.late) == ("committed", True)
    kinds = [e["type"] for e in await world.entries(account)]
    assert kinds[-3:] == ["commit", "expire", "commit"]


async def test_33_without_a_sweeper_answers_are_right(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await world.freeze(account)
    await api.reserve(account, "h1", amount=40, ttl_seconds=1)
    await world.advance(account, 1000)
    assert (await api.hold(account, "h1")).state == "expired"
    assert (await api.account(account)).funds == (100, 0)
    released = await api.release(account, "h1")
    assert (released.status, released.state) == (200, "expired")
    refused = await api.extend(account, "h1", ttl_seconds=60)
    assert (refused.status, refused.code) == (409, "hold_expired")


async def test_34_late_commits(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await world.freeze(account)
    for i in range(3):
        await api.reserve(account, f"h{i}", amount=30, ttl_seconds=1)
    await world.advance(account, 1000)
    done = await api.commit(account, "h0", amount=70)
    assert (done.state, done.late, done.committed, done.funds) == ("committed", True, 70, (30, 0))
    async with world.unchanged(account):
        refused = await api.commit(account, "h1", amount=31)
        assert (refused.status, refused.code) == (402, "commit_exceeds_funds")
    capped = await api.commit(account, "h1", amount=31, on_shortfall="cap")
    assert (capped.committed, capped.uncollected, capped.funds) == (30, 1, (0, 0))
    debt = await api.commit(account, "h2", on_shortfall="debt")
    assert (debt.committed, debt.funds) == (30, (-30, 0))
    last = (await world.entries(account))[-1]
    assert (last["type"], last["late"]) == ("commit", "1")


async def test_34_a_late_commit_of_an_overdrawn_hold_takes_nothing(
    api: Driver, world: World
) -> None:
    """Given partial commits of more than the hold, If what is left is committed late without an
    amount, I expect it to take nothing, and to give nothing back."""
    account = await world.account(api, 100)
    await world.freeze(account)
    await api.reserve(account, "h1", amount=1, ttl_seconds=1)
    await api.commit(account, "h1", "p1", amount=29, final=False)
    await world.advance(account, 1000)
    done = await api.commit(account, "h1")
    assert (done.state, done.late, done.committed, done.funds) == ("committed", True, 29, (71, 0))
    assert (await api.account(account)).spent == 29


async def test_35_a_retry_after_the_deadline_is_the_first_result(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await world.freeze(account)
    await api.reserve(account, "h1", amount=40, ttl_seconds=1)
    first = await api.commit(account, "h1", amount=13)
    await world.advance(account, 5000)
    again = await api.commit(account, "h1", amount=13)
    assert (again.replayed, again.late, again.version) == (True, False, first.version)
    hold = await api.reserve(account, "h1", amount=40, ttl_seconds=1)
    assert (hold.replayed, hold.state) == (True, "held")


async def test_36_sweepers_beside_commits(api: Driver, world: World) -> None:
    account = await world.account(api, 1000)
    await world.freeze(account)
    for i in range(20):
        await api.reserve(account, f"h{i}", amount=10, ttl_seconds=1)
    await world.advance(account, 1000)
    commits = [api.commit(account, f"h{i}") for i in range(20)]
    await asyncio.gather(world.sweep(), world.sweep(), *commits)
    await world.sweep()
    entries = await world.entries(account)
    for i in range(20):
        kinds = [e["type"] for e in entries if e.get("hold") == f"h{i}"]
        assert kinds == ["expire", "commit"]
    assert (await api.account(account)).funds == (800, 0)


async def test_37_a_thousand_due_at_once(ledger: Driver, world: World) -> None:
    account = await world.account(ledger, 1000)
    await world.freeze(account)
    calls = [ledger.reserve(account, f"h{i}", amount=1, ttl_seconds=1) for i in range(1000)]
    assert all(o.ok for o in await asyncio.gather(*calls))
    await world.advance(account, 1000)
    await world.sweep()
    answer = await ledger.account(account)
    assert (answer.funds, answer.open_holds) == ((1000, 0), 0)
    entries = await world.entries(account)
    assert sum(e["type"] == "expire" for e in entries) == 1000


async def test_37_more_due_than_a_caller_may_expire(ledger: Driver, world: World) -> None:
    """Nine hundred due holds are more than 8 rounds of 100: refused as overloaded, never as 402."""
    account = await world.account(ledger, 900)
    await world.freeze(account)
    calls = [ledger.reserve(account, f"h{i}", amount=1, ttl_seconds=1) for i in range(900)]
    assert all(o.ok for o in await asyncio.gather(*calls))
    await world.advance(account, 1000)
    refused = await ledger.reserve(account, "big", amount=900)
    assert (refused.status, refused.code) == (503, "overloaded")
    assert (await ledger.reserve(account, "big", amount=900)).ok


async def test_38_funds_are_there_right_after_the_deadline(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await world.freeze(account)
    await api.reserve(account, "h1", amount=100, ttl_seconds=1)
    assert (await api.reserve(account, "h2", amount=100)).status == 402
    await world.advance(account, 1000)
    assert (await api.reserve(account, "h2", amount=100)).funds == (0, 100)


async def test_39_a_clock_that_went_back_closes(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await world.freeze(account)
    await api.reserve(account, "h1", amount=40, ttl_seconds=60)
    await world.advance(account, 30_000)
    await world.lease_seen(account)
    await world.advance(account, -5000)
    for refused in (await api.reserve(account, "h2", amount=1), await api.commit(account, "h1")):
        assert (refused.status, refused.code, refused.store) == (503, "store_unavailable", "clock")
    await world.advance(account, 5000)
    assert (await api.commit(account, "h1")).ok


async def test_40_extend(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await world.freeze(account)
    await api.reserve(account, "h1", amount=40, ttl_seconds=60)
    await world.advance(account, 50_000)
    assert (await api.extend(account, "h1", ttl_seconds=60)).ok
    await world.advance(account, 59_999)
    assert (await api.hold(account, "h1")).state == "held"
    shorter = await api.extend(account, "h1", ttl_seconds=60)
    async with world.unchanged(account):
        same = await api.extend(account, "h1", ttl_seconds=1)
    assert same.version == shorter.version
    await world.advance(account, 60_000)
    refused = await api.extend(account, "h1", ttl_seconds=60)
    assert (refused.status, refused.code) == (409, "hold_expired")
    await api.reserve(account, "h2", amount=40)
    await api.commit(account, "h2")
    refused = await api.extend(account, "h2", ttl_seconds=60)
    assert (refused.status, refused.code) == (409, "hold_committed")


async def test_40_extend_twice_with_one_key(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.reserve(account, "h1", amount=40)
    first = await api.extend(account, "h1", "x1", add_amount=10)
    assert (first.amount, first.remaining, first.funds) == (50, 50, (50, 50))
    await api.extend(account, "h1", "x2", add_amount=1)
    async with world.unchanged(account):
        again = await api.extend(account, "h1", "x1", add_amount=10)
        other = await api.extend(account, "h1", "x1", add_amount=11)
    assert (again.replayed, again.amount, again.version) == (True, 50, first.version)
    assert (other.code, other.errors[0]["field"]) == ("idempotency_key_reused", "add_amount")
    assert (await api.commit(account, "h1")).committed == 51


async def test_40_an_increase_needs_a_key(http: HttpDriver, world: World) -> None:
    account = await world.account(http, 100)
    await http.reserve(account, "h1", amount=40)
    refused = await http.extend(account, "h1", add_amount=10)
    assert (refused.status, refused.code) == (400, "idempotency_key_missing")


async def test_41_a_declined_increase_changes_nothing(api: Driver, world: World) -> None:
    account = await world.account(api, 50)
    await api.reserve(account, "h1", amount=40)
    async with world.unchanged(account):
        refused = await api.extend(account, "h1", "x1", add_amount=11, ttl_seconds=3600)
        assert (refused.status, refused.code) == (402, "insufficient_credits")
    assert (await api.extend(account, "h1", "x1", add_amount=10)).ok


async def test_41_extend_beside_expire(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await world.freeze(account)
    await api.reserve(account, "h1", amount=40, ttl_seconds=1)
    await world.advance(account, 999)
    extended, _ = await asyncio.gather(api.extend(account, "h1", ttl_seconds=60), world.sweep())
    assert extended.ok
    await world.advance(account, 59_000)
    await world.sweep()
    assert (await api.hold(account, "h1")).state == "held"
    await world.advance(account, 1000)
    _, refused = await asyncio.gather(world.sweep(), api.extend(account, "h1", ttl_seconds=60))
    assert refused.code == "hold_expired"
    assert [e["type"] for e in await world.entries(account)].count("expire") == 1


async def test_42_money_has_no_ttl(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.reserve(account, "open", amount=10)
    await api.reserve(account, "ended", amount=10)
    await api.commit(account, "ended")
    ttls = await world.ttls(account)
    assert {name: ttl > 0 for name, ttl in ttls.items()} == {
        "acct": False,
        "open": False,
        "key:open": False,
        "key:ended": True,
        **{name: True for name in ttls if name.startswith("key:grant-")},
    }


async def test_52a_due_holds_come_first(api: Driver, world: World) -> None:
    """Nothing is shrunk, capped or taken as debt while due holds would change what there is."""
    account = await world.account(api, 100)
    await world.freeze(account)
    await api.reserve(account, "due1", amount=50, ttl_seconds=1)
    await api.reserve(account, "live", amount=20, ttl_seconds=60)
    await world.advance(account, 1000)
    shrunk = await api.reserve(account, "h1", amount=60, min_amount=1, ttl_seconds=1)
    assert shrunk.amount == 60
    await world.advance(account, 1000)
    capped = await api.commit(account, "live", amount=100, on_shortfall="cap")
    assert (capped.committed, capped.uncollected) == (100, 0)


async def test_52a_due_grants_come_first(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    now = await world.freeze(account)
    await api.grant(account, 50, expires_ms=now + 1000)
    await world.advance(account, 1000)
    shrunk = await api.reserve(account, "h1", amount=150, min_amount=1)
    assert (shrunk.amount, shrunk.funds) == (100, (0, 100))
    assert [e["type"] for e in await world.entries(account)][-2:] == ["forfeit", "reserve"]
    assert (await api.account(account)).forfeited == 50


async def test_52a_no_debt_is_made_of_what_due_holds_keep(api: Driver, world: World) -> None:
    """Given a due hold, If a commit would take debt, I expect what it kept to be taken instead."""
    account = await world.account(api, 100)
    await world.freeze(account)
    await api.reserve(account, "due", amount=50, ttl_seconds=1)
    await api.reserve(account, "live", amount=20, ttl_seconds=60)
    await world.advance(account, 1000)
    done = await api.commit(account, "live", amount=90, on_shortfall="debt")
    assert (done.committed, done.funds) == (90, (10, 0))
    assert (await api.account(account)).debt == 0
    assert [e["type"] for e in await world.entries(account)][-2:] == ["expire", "commit"]


async def test_52a_no_debt_is_made_beside_a_due_grant(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    now = await world.freeze(account)
    await api.grant(account, 50, expires_ms=now + 1000)
    await api.reserve(account, "h1", amount=20, ttl_seconds=60)  # drawn from the grant
    await world.advance(account, 1000)
    done = await api.commit(account, "h1", amount=130, on_shortfall="debt")
    assert (done.committed, done.funds) == (130, (-10, 0))
    answer = await api.account(account)
    assert (answer.debt, answer.forfeited) == (10, 30)
