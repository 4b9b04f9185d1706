"""Cold accounts and records: conformance scenario 62."""

import asyncio
from typing import Any

import pytest

from holdfast.codes import Code
from holdfast.cold import MAX_RECORDS
from holdfast.errors import StoreUnavailable
from holdfast.ledger import Ledger
from tests.conformance.drivers import Driver
from tests.conformance.world import World


async def _cool(world: World, account: str) -> None:
    await world.settle()
    assert await world.evict(account) is Code.OK
    assert "acct" not in await world.keys(account)


async def test_62_a_hundred_first_reserves_are_one_load(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    await _cool(world, account)
    calls = [api.reserve(account, f"h{i}", amount=1) for i in range(100)]
    assert {o.status for o in await asyncio.gather(*calls)} == {201}
    assert (await api.account(account)).funds == (0, 100)
    assert (await world.stack.acct(account))["complete"] == "1"


async def test_62_a_loaded_account_is_what_was_evicted(api: Driver, world: World) -> None:
    account = await world.account(api, 1000, overdraft_limit=20, daily_limit=900, plan="pro")
    now = await world.freeze(account)
    await api.put_member(account, "bob", daily_limit=500)
    await api.grant(account, 50, "g", expires_ms=now + 3_600_000, priority=3)
    await api.reserve(account, "open", amount=70, member="bob", metadata={"model": 'x"y'})
    await api.release(account, "open")
    await api.reserve(account, "part", amount=70, member="bob")
    await api.commit(account, "part", "p1", amount=5, final=False)
    await api.commit(account, "part", "p2", amount=65)
    await api.charge(account, "c", amount=30, member="eve")
    await api.refund(account, "r", of="c", amount=10)
    before = {
        "account": (await api.account(account)).body,
        "bob": (await api.member(account, "bob")).body,
        "part": (await api.hold(account, "part")).body,
    }
    records = {
        name: await world.stack.hash(key)
        for name, key in (await world.keys(account)).items()
        if "key:" in name
    }
    await world.settle()
    assert await world.evict(account) is Code.OK
    for name, key in (await world.keys(account)).items():
        assert name.startswith("key:")
        await world.stack.command("DEL", key)  # as after a rebuild: only the journal knows
    assert (await api.account(account)).body == before["account"]
    assert (await api.member(account, "bob")).body == before["bob"]
    assert (await api.hold(account, "part")).body == before["part"]
    for name, key in (await world.keys(account)).items():
        if "key:" in name:
            assert await world.stack.hash(key) == records[name], name
    await world.settle()


async def test_62_open_holds_come_back_after_a_rebuild(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    first = await api.reserve(account, "h1", amount=40)
    await api.commit(account, "h1", "p1", amount=5, final=False)
    await world.settle()
    await world.forget(account)
    again = await api.reserve(account, "h1", amount=40)
    assert (again.replayed, again.version, again.funds) == (True, first.version, (60, 40))
    assert (await api.commit(account, "h1", "p1", amount=5, final=False)).replayed
    done = await api.commit(account, "h1", amount=10)
    assert (done.committed, done.funds) == (15, (85, 0))


async def test_62_an_unsettled_account_is_not_evicted(api: Driver, world: World) -> None:
    account = await world.account(api, 100)
    assert await world.evict(account) is Code.BUSY
    await api.reserve(account, "h1", amount=40)
    await world.settle()
    assert await world.evict(account) is Code.BUSY


async def test_62_an_old_snapshot_is_refused(ledger: Driver, world: World) -> None:
    """A loader that read before an eviction would bring an older balance."""
    account = await world.account(ledger, 100)
    await _cool(world, account)
    stack = world.stack
    number = stack.shards.number_of(account)
    old_mark = stack.state.rows[number].mark
    await ledger.charge(account, "c", amount=60)
    await _cool(world, account)
    args = (old_mark, "1", "", "status", "active", "base", 100, "available", 100, "held", 0)
    code, _ = await stack.call("load", account, *args, "version", 2, "last_seq", 2)
    assert code is Code.STALE
    assert (await ledger.account(account)).funds == (40, 0)


async def test_62_a_retry_with_10000_records_in_the_window(ledger: Driver, world: World) -> None:
    account = await world.account(ledger, 20_000)
    for start in range(0, 10_000, 100):  # few at a time: the leases are kept by this loop too
        calls = [ledger.charge(account, f"c{start + i}", amount=1) for i in range(100)]
        assert [o for o in await asyncio.gather(*calls) if not o.ok] == []
    await world.settle()
    await world.forget(account)
    before = await ledger.account(account)
    assert (await world.stack.acct(account))["complete"] == "0"
    assert len(await world.keys(account)) < MAX_RECORDS
    again = await asyncio.gather(
        *[ledger.charge(account, f"c{i}", amount=1) for i in (0, 17, 4999, 9999)]
    )
    assert all(o.replayed for o in again)
    assert (await ledger.account(account)).funds == before.funds
    fresh = await ledger.charge(account, "new", amount=1)
    assert (fresh.status, fresh.replayed) == (201, False)
    other = await ledger.charge(account, "c18", amount=2)
    assert other.code == "idempotency_key_reused"


async def test_62_a_refund_is_not_paid_twice_by_a_stale_record(
    ledger: Driver, world: World
) -> None:
    account = await world.account(ledger, 100)
    await ledger.charge(account, "c", amount=30)
    await world.settle()
    await world.forget(account)
    assert (await ledger.account(account)).funds == (70, 0)
    stack = world.stack
    number = stack.shards.number_of(account)
    read_at = stack.state.rows[number].mark
    assert (await ledger.refund(account, "r1", of="c")).amount == 30
    key = stack.shards.keys[number].record(account, "c")
    await stack.command("DEL", key)
    fields = ("kind", "charge", "state", "committed", "committed", 30, "amount", 30)
    args = (read_at, "record", 0, 0, 1, "", len(fields) // 2, *fields)
    code, _ = await stack.call("load_part", account, *args, records=["c"])
    assert code is Code.STALE


async def test_62_nothing_is_brought_back_of_an_account_in_quarantine(
    ledger: Driver, world: World
) -> None:
    """What was diverted is below the mark and in no record: a lookup must not say "absent"."""
    account = await world.account(ledger, 100)
    await ledger.charge(account, "c", amount=30)
    await world.settle()
    await world.forget(account)
    assert (await ledger.account(account)).funds == (70, 0)
    stack = world.stack
    number = stack.shards.number_of(account)
    await stack.command("DEL", stack.shards.keys[number].record(account, "c"))
    await stack.pool.execute("UPDATE account SET quarantined = true WHERE account = $1", account)
    refused = await ledger.refund(account, "r1", of="c")
    assert (refused.status, refused.code) == (409, "account_frozen")
    await stack.pool.execute("UPDATE account SET quarantined = false WHERE account = $1", account)
    assert (await ledger.refund(account, "r1", of="c")).amount == 30


@pytest.mark.parametrize("kind", ["commit", "refund"])
async def test_records_past_their_window_are_still_known(
    api: Driver, world: World, kind: str
) -> None:
    account = await world.account(api, 100)
    await api.reserve(account, "h1", amount=40)
    await api.commit(account, "h1", amount=30)
    await world.settle()
    await world.stack.command("DEL", (await world.keys(account))["key:h1"])
    if kind == "commit":
        assert (await api.commit(account, "h1", "other", amount=1)).code == "hold_committed"
    else:
        assert (await api.refund(account, "r1", of="h1")).amount == 30
        assert (await api.refund(account, "r2", of="h1")).code == "refund_exceeds"


async def test_62_a_load_belongs_to_one_generation(
    ledger: Driver, inner: Ledger, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts and account under two nonces would be a complete account without its records."""
    account = await world.account(ledger, 100)
    await ledger.charge(account, "c", amount=1)
    await world.settle()
    await world.forget(account)
    gate = inner._decisions.gates[inner.shards.number_of(account)]
    true_nonce, run, seen = gate.nonce, inner.shards.run, []

    async def changing(number: int, name: str, nonce: str, keys: Any, args: Any) -> Any:
        seen.append(nonce)
        gate.nonce = "f" * 32  # a rebuild was declared meanwhile, and the gate has heard of it
        return await run(number, name, nonce, keys, args)

    monkeypatch.setattr(inner.shards, "run", changing)
    try:
        assert await inner._decisions.cold.load(account) is None
    finally:
        gate.nonce = true_nonce
    assert seen == [true_nonce] * len(seen)
    assert len(seen) >= 2


async def test_62_a_load_without_a_lease_is_refused_as_such(
    ledger: Driver, inner: Ledger, world: World
) -> None:
    account = await world.account(ledger, 100)
    await _cool(world, account)
    await world.close()  # nobody renews
    shard = world.stack.shards.keys[world.stack.shards.number_of(account)]
    await world.stack.command("DEL", shard.lease_new, shard.lease_finish)
    await world.stack.command("HDEL", shard.meta, "lent_ms")  # it has ended: no clock was ahead
    try:
        with pytest.raises(StoreUnavailable) as refused:
            await inner._decisions.cold.load(account)
    finally:
        await world.start()
    assert refused.value.store == "lease"


async def test_a_survey_alone_finds_the_new_generation(inner: Ledger, world: World) -> None:
    """A service that nobody calls but its probes learns that it may serve again."""
    gate = inner._decisions.gates[0]
    true_nonce, gate.nonce = gate.nonce, "f" * 32
    assert (await inner.survey())[0].reason == "fenced"
    for _ in range(250):  # 5 s
        if gate.nonce == true_nonce and not gate.fenced:
            break
        await asyncio.sleep(0.02)
    assert (await inner.survey())[0].reason == ""


@pytest.mark.parametrize(
    ("field", "by", "reason"), [("clock_ms", 3_600_000, "clock"), ("seq", 20_000, "backlog")]
)
async def test_a_survey_calls_closed_what_refuses_new_spending(
    ledger: Driver, inner: Ledger, world: World, field: str, by: int, reason: str
) -> None:
    account = await world.account(ledger, 100)
    number = world.stack.shards.number_of(account)
    meta = world.stack.shards.keys[number].meta
    await world.stack.command("HINCRBY", meta, field, by)
    try:
        seen = (await inner.survey())[number].reason
        refused = await ledger.reserve(account, "h", amount=1)
    finally:
        await world.stack.command("HINCRBY", meta, field, -by)
    assert (seen, refused.body["store"]) == (reason, reason)
    assert (await inner.survey())[number].reason == ""
