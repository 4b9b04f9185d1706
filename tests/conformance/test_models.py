"""Models: what a hold is for stays with it, is added up by it, and may be one of a few."""

from datetime import UTC, datetime
from typing import Any

import pytest

from holdfast import statistics
from holdfast.codes import Code
from settlement.reconcile import reconcile
from tests.conformance.drivers import Driver
from tests.conformance.world import World

LARGE = {"model": "openai/gpt-4o"}
SMALL = {"model": "ft:small@7"}


async def usage(world: World, account: str, *times_ms: int) -> dict[str, tuple[int, int, int]]:
    """used, spent and calls by model, on the days from the first of these times to the last."""
    await world.settle()
    first, last = (datetime.fromtimestamp(at / 1000, UTC).date() for at in times_ms)
    page = await statistics.usage(
        world.stack.pool, account, groups=["model"], first=first, last=last, after=None, limit=9
    )
    return {line.model: (line.used, line.spent, line.calls) for line in page.data}


async def agrees(world: World, account: str) -> None:
    stack = world.stack
    report = await reconcile(stack.pool, stack.shards, window_s=86_400, account=account, full=True)
    assert report.findings == []


async def test_what_a_hold_does_counts_for_its_model(api: Driver, world: World) -> None:
    account = await world.account(api, 1_000)
    began = await world.freeze(account)
    await api.reserve(account, "parts", amount=100, usage=LARGE)
    await api.extend(account, "parts", "more", add_amount=20, ttl_seconds=1_000)
    await api.commit(account, "parts", "p1", amount=30, final=False)
    await api.commit(account, "parts", amount=25)
    await api.refund(account, "r", of="parts", amount=5)
    await api.reserve(account, "unused", amount=40, usage=SMALL)
    await api.release(account, "unused")
    await api.reserve(account, "late", amount=50, ttl_seconds=5, usage=SMALL, member="ann")
    await api.reserve(account, "over", amount=60, ttl_seconds=5, usage=SMALL)
    await api.charge(account, "c1", amount=7, usage=LARGE)
    await api.charge(account, "c2", amount=9)
    ended = await world.advance(account, 5_000)
    await world.sweep()
    assert (await api.commit(account, "late", amount=11)).late

    assert await usage(world, account, began, ended) == {
        "": (9, 9, 1),
        "openai/gpt-4o": (62, 62, 2),
        "ft:small@7": (11, 11, 3),
    }
    told = [
        (entry["type"], entry.get("model"))
        for entry in await world.entries(account)
        if entry["type"] not in ("open", "grant", "refund")
    ]
    assert told.count(("commit", "openai/gpt-4o")) == 2
    assert told.count(("expire", "ft:small@7")) == 2
    assert [kind for kind, model in told if model is None] == ["charge"]
    await agrees(world, account)


async def test_a_hold_without_a_model_has_none_anywhere(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await api.reserve(account, "h", amount=40, member="ann", metadata={"model": "mine"})
    assert "model" not in await world.stack.hash((await world.keys(account))["key:h"])
    await api.commit(account, "h", amount=10)
    assert not any("model" in entry for entry in await world.entries(account))


@pytest.mark.parametrize("gone", ["evicted", "rebuilt"])
async def test_a_hold_that_was_cold_has_its_model(api: Driver, world: World, gone: str) -> None:
    """An open hold comes back after a rebuild; an account is evicted only without open holds."""
    account = await world.account(api, 100, models=["openai/gpt-4o", "ft:small@7"])
    began = await world.freeze(account)
    first = {"amount": 40, "usage": LARGE}
    await api.reserve(account, "h", **first)
    if gone == "evicted":
        await api.release(account, "h")
    await world.settle()
    if gone == "evicted":
        assert await world.evict(account) is Code.OK
    else:
        await world.forget(account)

    assert (await api.account(account)).limits["models"] == ["openai/gpt-4o", "ft:small@7"]
    record = await world.stack.hash((await world.keys(account))["key:h"])
    assert record["model"] == "openai/gpt-4o"
    assert (await api.reserve(account, "h", **first)).replayed
    if gone == "rebuilt":
        await api.commit(account, "h", amount=15)
    took = 15 if gone == "rebuilt" else 0
    assert await usage(world, account, began, began) == {"openai/gpt-4o": (took, took, 1)}
    await agrees(world, account)


@pytest.mark.parametrize("call", ["reserve", "charge"])
async def test_the_model_is_part_of_the_request(api: Driver, world: World, call: str) -> None:
    account = await world.account(api, 100)
    send: Any = getattr(api, call)
    assert (await send(account, "k", amount=10, usage=LARGE)).status == 201
    assert (await send(account, "k", amount=10, usage=LARGE)).replayed
    for other in ({"usage": SMALL}, {}):
        async with world.unchanged(account):
            refused = await send(account, "k", amount=10, **other)
        assert (refused.status, refused.code) == (422, "idempotency_key_reused")
        assert refused.errors[0]["field"] == "usage"


@pytest.mark.parametrize("call", ["reserve", "charge"])
async def test_an_account_may_use_the_models_on_its_list(
    api: Driver, world: World, call: str
) -> None:
    account = await world.account(api, 100)
    opened = await api.open(account, models=["gpt-4o-mini", "openai/gpt-4o"])
    assert opened.limits["models"] == ["gpt-4o-mini", "openai/gpt-4o"]
    send: Any = getattr(api, call)
    for other in (SMALL, {"model": "gpt-4o"}, {"model": "openai/gpt-4"}, {"model": "."}, None):
        body = {} if other is None else {"usage": other}
        async with world.unchanged(account):
            refused = await send(account, "k", amount=10, **body)
        assert (refused.status, refused.code, refused.limit) == (402, "limit_exceeded", "models")
    assert (await send(account, "k", amount=10, usage=LARGE)).status == 201
    await api.open(account, models=None)
    assert (await send(account, "free", amount=10)).status == 201
    await world.settle()
    await agrees(world, account)


async def test_a_hold_goes_on_when_its_model_is_allowed_no_more(api: Driver, world: World) -> None:
    account = await world.account(api, 100, models=[LARGE["model"]])
    await api.reserve(account, "h", amount=10, usage=LARGE)
    await api.open(account, models=[SMALL["model"]])
    assert (await api.extend(account, "h", "more", add_amount=5)).amount == 15
    assert (await api.reserve(account, "h", amount=10, usage=LARGE)).replayed
    assert (await api.commit(account, "h", amount=12)).state == "committed"


@pytest.mark.parametrize(
    "models", [[], ["a b"], [""], ["a", "a"], "ab", ["m" * 100 + str(i) for i in range(6)]]
)
async def test_a_list_of_models_is_refused_by_name(
    api: Driver, world: World, models: object
) -> None:
    account = await world.account(api, 0)
    refused = await api.open(account, models=models)
    assert (refused.status, refused.code) == (422, "invalid_request")
    assert {error["field"].partition("[")[0] for error in refused.errors} == {"models"}


@pytest.mark.parametrize("model", ["", "a b", 'a"', "a\n", "m" * 129, 7])
async def test_a_name_that_is_none_is_refused(api: Driver, world: World, model: object) -> None:
    account = await world.account(api, 100)
    async with world.unchanged(account):
        refused = await api.reserve(account, "h", amount=1, usage={"model": model})
    assert (refused.status, refused.code) == (422, "invalid_request")
    assert refused.errors[0]["field"] in ("model", "usage.model")
