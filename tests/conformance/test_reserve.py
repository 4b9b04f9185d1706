"""Reserve: conformance scenarios 1 to 17."""

import asyncio
import json

import pytest

from tests.conformance.drivers import Driver, HttpDriver
from tests.conformance.world import World

BAD_AMOUNTS = [-1, 0, 1.5, "5", True, None, 2**53, 10**16]


async def test_01_reserve_sets_aside(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    before = await api.account(account)
    hold = await api.reserve(account, "h1", amount=40)
    assert (hold.status, hold.state, hold.funds) == (201, "held", (60, 40))
    assert hold.version == before.version + 1
    entries = await world.entries(account)
    assert [e["type"] for e in entries] == ["open", "grant", "reserve"]
    assert entries[-1]["version"] == str(hold.version)


async def test_02_to_the_last_unit(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    assert (await api.reserve(account, "h1", amount=100)).funds == (0, 100)
    async with world.unchanged(account):
        denied = await api.reserve(account, "h2", amount=1)
        assert (denied.status, denied.code) == (402, "insufficient_credits")


async def test_03_five_holds_of_a_fifth(api: Driver, world: World) -> None:
    account = await world.account(api, 5000)
    for i in range(5):
        assert (await api.reserve(account, f"h{i}", amount=1000)).ok
    assert (await api.reserve(account, "h5", amount=1000)).status == 402


async def test_04_racers_win_what_there_is(api: Driver, world: World) -> None:
    account = await world.account(api, 31)
    calls = [api.reserve(account, f"h{i}", amount=1) for i in range(32)]
    statuses = sorted(o.status for o in await asyncio.gather(*calls))
    assert statuses == [201] * 31 + [402]
    assert (await api.account(account)).funds == (0, 31)


async def test_05_same_key_same_body_is_a_replay(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    first = await api.reserve(account, "h1", amount=40, ttl_seconds=60, metadata={"call": "x"})
    await api.reserve(account, "h2", amount=10)
    async with world.unchanged(account):
        again = await api.reserve(account, "h1", amount=40, ttl_seconds=60, metadata={"call": "y"})
    assert (again.status, again.replayed, first.replayed) == (200, True, False)
    for name in ("id", "amount", "state", "available", "held", "version", "metadata"):
        assert again.body[name] == first.body[name], name


@pytest.mark.parametrize(
    ("field", "value"), [("amount", 41), ("ttl_seconds", 61), ("member", "bob"), ("min_amount", 5)]
)
async def test_06_same_key_other_request(
    api: Driver, world: World, field: str, value: object
) -> None:
    account = await world.account(api, 100)
    body = {"amount": 40, "ttl_seconds": 60, "member": "al"}
    await api.reserve(account, "h1", **body)
    async with world.unchanged(account):
        refused = await api.reserve(account, "h1", **{**body, field: value})
    assert (refused.status, refused.code) == (422, "idempotency_key_reused")
    assert refused.errors[0]["field"] == field


async def test_07_a_denial_leaves_nothing(api: Driver, world: World) -> None:
    account = await world.account(api, 10)
    assert (await api.reserve(account, "h1", amount=40)).status == 402
    await api.grant(account, 100)
    hold = await api.reserve(account, "h1", amount=40)
    assert (hold.status, hold.replayed) == (201, False)


async def test_08_malformed_does_not_burn_the_key(http: HttpDriver, world: World) -> None:
    account = await world.account(http, 100)
    bad = [
        (b'{"amount": 40, "nonsense": 1}', 422, "nonsense"),
        (b'{"amount": "forty"}', 422, "amount"),
        (b"{}", 422, "amount"),
        (b'{"amount": 40, "metadata": [1]}', 422, "metadata"),
        (b'{"amount": 40, "member": "a/b"}', 422, "member"),
        (b'{"amount": 40, "ttl_seconds": null, "min_amount": 41}', 422, "min_amount"),
        (b'{"amount": 40', 400, None),
        (b"[]", 422, None),
        (b"\xff\xfe", 400, None),
    ]
    async with world.unchanged(account):
        for content, status, field in bad:
            refused = await http.raw("POST", f"/v1/accounts/{account}/holds", content, "h1")
            assert refused.status == status, content
            if field is not None:
                assert field in json.dumps(refused.body["errors"]), content
    assert (await http.reserve(account, "h1", amount=40)).status == 201


@pytest.mark.parametrize("amount", BAD_AMOUNTS, ids=repr)
async def test_09_amounts_outside_the_range(api: Driver, world: World, amount: object) -> None:
    account = await world.account(api, 100)
    async with world.unchanged(account):
        for call in (
            api.reserve(account, "h1", amount=amount),
            api.charge(account, "c1", amount=amount),
            api.grant(account, amount, "g1"),
        ):
            refused = await call
            if amount is None and refused.ok:
                pytest.fail("an amount is required")
            assert refused.status == 422
            assert refused.code == "invalid_request"
            assert refused.errors[0]["field"] == "amount"


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "1e400", "1e2", "9007199254740993", "-0.0"])
async def test_09_number_literals(http: HttpDriver, world: World, literal: str) -> None:
    account = await world.account(http, 100)
    async with world.unchanged(account):
        content = f'{{"amount": {literal}}}'.encode()
        refused = await http.raw("POST", f"/v1/accounts/{account}/holds", content, "h1")
        assert refused.status in (400, 422)


async def test_10_sums_stay_in_range(api: Driver, world: World) -> None:
    account = await world.account(api, 9 * 10**15)
    async with world.unchanged(account):
        refused = await api.grant(account, 1, "one-more")
    assert (refused.status, refused.code) == (422, "amount_limit")
    assert (await api.reserve(account, "h1", amount=9 * 10**15)).ok
    refused = await api.grant(account, 1, "one-more")
    assert refused.code == "amount_limit"


async def test_10_a_refund_stays_in_range(api: Driver, world: World) -> None:
    account = await world.account(api, 9 * 10**15)
    await api.charge(account, "c1", amount=5)
    assert (await api.grant(account, 3)).ok
    async with world.unchanged(account):
        refused = await api.refund(account, "r1", of="c1")
        assert (refused.status, refused.code) == (422, "amount_limit")
    assert (await api.refund(account, "r1", of="c1", amount=2)).funds == (9 * 10**15, 0)


async def test_11_unknown_frozen_closed(api: Driver, world: World) -> None:
    unknown = world.name()
    refused = await api.reserve(unknown, "h1", amount=1)
    assert (refused.status, refused.code) == (404, "account_not_found")
    frozen = await world.account(api, 100)
    await api.open(frozen, status="frozen")
    refused = await api.reserve(frozen, "h1", amount=1)
    assert (refused.status, refused.code) == (409, "account_frozen")
    await api.open(frozen, status="active")
    assert (await api.reserve(frozen, "h1", amount=1)).ok
    closed = await world.account(api, 0)
    await api.open(closed, status="closed")
    for refused in (await api.reserve(closed, "h1", amount=1), await api.grant(closed, 1)):
        assert (refused.status, refused.code) == (409, "account_closed")


@pytest.mark.parametrize("ttl", [0, -1, 86_401, 10**18, 1.5, "60"])
async def test_12_ttl_outside_the_range(api: Driver, world: World, ttl: object) -> None:
    account = await world.account(api, 100)
    async with world.unchanged(account):
        refused = await api.reserve(account, "h1", amount=1, ttl_seconds=ttl)
    assert (refused.status, refused.errors[0]["field"]) == (422, "ttl_seconds")


async def test_13_keys_belong_to_an_account(api: Driver, world: World) -> None:
    one, other = await world.account(api, 100), await world.account(api, 100)
    assert (await api.reserve(one, "same", amount=40)).status == 201
    assert (await api.reserve(other, "same", amount=50)).status == 201


async def test_14_a_lost_reply_repeated_is_one_hold(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    for _ in range(3):
        lost = asyncio.create_task(api.reserve(account, "h1", amount=40))
        await asyncio.sleep(0)
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)
    hold = await api.reserve(account, "h1", amount=40)
    assert hold.ok
    assert (await api.account(account)).funds == (60, 40)
    assert [e["type"] for e in await world.entries(account)].count("reserve") == 1


async def test_15_shrink_to_fit(api: Driver, world: World) -> None:
    account = await world.account(api, 30)
    async with world.unchanged(account):
        refused = await api.reserve(account, "h0", amount=5, min_amount=6)
        assert (refused.status, refused.errors[0]["field"]) == (422, "min_amount")
        assert (await api.reserve(account, "h0", amount=100, min_amount=31)).status == 402
    hold = await api.reserve(account, "h1", amount=100, min_amount=10)
    assert (hold.amount, hold.funds) == (30, (0, 30))
    again = await api.reserve(account, "h1", amount=100, min_amount=10)
    assert (again.amount, again.replayed) == (30, True)


async def test_16_many_open_holds_cost_the_same(ledger: Driver, world: World) -> None:
    """The commands that a reserve issues do not depend on how many holds are open."""
    account = await world.account(ledger, 10**9)
    assert (await ledger.reserve(account, "first", amount=1)).ok
    before = await world.commands_of(ledger.reserve(account, "second", amount=1))
    for start in range(0, 10_000, 100):  # few at a time: the leases are kept by this loop too
        calls = [ledger.reserve(account, f"h{start + i}", amount=1) for i in range(100)]
        assert [o for o in await asyncio.gather(*calls) if not o.ok] == []
    after = await world.commands_of(ledger.reserve(account, "last", amount=1))
    assert after == before
    assert (await ledger.account(account)).open_holds == 10_003


async def test_17_max_open_holds(api: Driver, world: World) -> None:
    account = await world.account(api, 100, max_open_holds=2)
    assert (await api.reserve(account, "h1", amount=1)).ok
    assert (await api.reserve(account, "h2", amount=1)).ok
    async with world.unchanged(account):
        refused = await api.reserve(account, "h3", amount=1)
    assert (refused.status, refused.code) == (402, "limit_exceeded")
    assert refused.limit == "max_open_holds"
    await api.release(account, "h1")
    assert (await api.reserve(account, "h3", amount=1)).ok


async def test_max_hold_names_the_limit(api: Driver, world: World) -> None:
    account = await world.account(api, 100, max_hold=50)
    refused = await api.reserve(account, "h1", amount=51)
    assert (refused.code, refused.limit) == ("limit_exceeded", "max_hold")
    assert (await api.reserve(account, "h1", amount=50)).ok
    assert (await api.extend(account, "h1", "x1", add_amount=1)).limit == "max_hold"


async def test_overdraft_is_drawn_last(api: Driver, world: World) -> None:
    account = await world.account(api, 30, overdraft_limit=20)
    assert (await api.reserve(account, "h1", amount=51)).status == 402
    hold = await api.reserve(account, "h1", amount=50)
    assert hold.funds == (-20, 50)
    assert (await api.account(account)).debt == 20
    released = await api.release(account, "h1")
    assert released.funds == (30, 0)
    assert (await api.account(account)).debt == 0
