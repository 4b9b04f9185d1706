"""Rebuilds on real servers: what is kept, what is deleted, and what is said about the rest."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from holdfast.codes import Code
from holdfast.embedded import Postgres, Valkey
from settlement.generation import Generation
from settlement.readiness import make_ready
from settlement.rebuild import UNSETTLED_MAX, delete_pass, empty
from settlement.vetting import Seen, Vetting
from tests.stack import Stack
from tests.vetted import (
    Files,
    begin_with_two_holds,
    dump,
    incidents,
    keep_leases,
    running,
    settle_all,
    shard,
    until,
    vet_anew,
)

ACCOUNT = "acme"


@pytest.fixture
def valkey(server_dir: Path) -> Iterator[Valkey]:
    with Valkey.start(server_dir / "valkey") as server:
        yield server


@pytest.fixture
async def stack(valkey: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    """Four open shards; `acme` has 100, a hold h1 that is settled, and a hold h2 that is not."""
    async with Stack(valkey.url, postgres_server.url, shards=4, vet=False) as stack:
        await begin_with_two_holds(stack, ACCOUNT)
        async with running(keep_leases(stack)):
            yield stack


@pytest.fixture
def number(stack: Stack) -> int:
    return stack.shards.number_of(ACCOUNT)


async def the_rebuild(stack: Stack, number: int) -> dict[str, Any]:
    """The details of the one rebuild of a shard, with its summary."""
    (incident,) = [i for i in await incidents(stack, "rebuild") if i["shard"] == number]
    found: dict[str, Any] = json.loads(incident["details"])
    return found | {"summary": incident["summary"]}


async def lost(stack: Stack) -> list[tuple[int, str, str]]:
    rows = await stack.pool.fetch("SELECT * FROM quarantine WHERE origin = 'lost' ORDER BY seq, id")
    return [(row["seq"], row["account"], json.loads(row["entry"])["type"]) for row in rows]


async def forge(stack: Stack, number: int, wrong: int) -> None:
    """Rewrite a shard's stream with one entry changed, as somebody with access to Redis could."""
    stream = stack.shards.keys[number].stream
    entries = await stack.command("XRANGE", stream, "-", "+")
    await stack.command("DEL", stream)
    for entry_id, fields in entries:
        if entry_id == b"%d-0" % wrong:
            fields[1] = fields[1].replace(b'"amount":"20"', b'"amount":"2"')
        await stack.command("XADD", stream, entry_id, *fields)


async def test_flushed_redis_is_rebuilt_from_the_journal(stack: Stack, number: int) -> None:
    nonce = stack.state.rows[number].nonce
    seen = {number: Seen(nonce, 4)}
    deadline_ms = int((await stack.command("ZRANGE", stack.shards.keys[number].open(ACCOUNT),
                                           0, 0, "WITHSCORES"))[1])  # fmt: skip
    await stack.command("FLUSHALL")
    stack.state.doubt(number, "FENCED")

    await vet_anew(stack, Vetting(stack.state, seen))

    chain = (await shard(stack, number))["chain"]
    meta = await stack.meta(number)
    assert {name: meta[name] for name in ("seq", "settled", "last_evict_seq", "chain")} == {
        "seq": "3",
        "settled": "3",
        "last_evict_seq": "3",
        "chain": chain,
    }
    due = await stack.command("ZRANGE", stack.shards.keys[number].due, 0, -1, "WITHSCORES")
    assert due == [ACCOUNT.encode(), b"%d" % deadline_ms]
    assert await stack.acct(ACCOUNT) == {}  # cold: loaded when it is used
    details = await the_rebuild(stack, number)
    expected = {
        "generation_before": 1,
        "generation": 2,
        "redis_generation": 0,
        "mark_before": 3,
        "mark": 3,
        "redis_seq": 0,
        "seen_seq": 4,
        "kept_in_quarantine": 0,
        "lost_known": 1,
        "lost_at_most": UNSETTLED_MAX,
    }
    assert {name: details[name] for name in expected} == expected
    assert (
        f"at entry 3: at most {UNSETTLED_MAX} entries were lost, 1 are known of"
        in (details["summary"])
    )
    assert details["settled_until"]
    await stack.renew_leases()
    await stack.move("open", "new-customer", 3)  # serves


async def test_entry_that_was_deleted_from_the_stream_is_found(stack: Stack, number: int) -> None:
    await stack.reserve(ACCOUNT, "h3", 5)  # 5
    await stack.reserve(ACCOUNT, "h4", 5)  # 6
    await stack.command("XDEL", stack.shards.keys[number].stream, "5-0")
    others = await dump(stack, b"lease:new", b"lease:finish")
    stack.state.doubt(number, "gap")

    await vet_anew(stack, Vetting(stack.state))

    assert (await shard(stack, number))["mark"] == 4  # what stood before the gap is settled
    assert await lost(stack) == [(6, ACCOUNT, "reserve")]
    details = await the_rebuild(stack, number)
    assert details["reason"] == "entry 5 is missing, 6-0 follows"
    assert (details["lost_known"], details["lost_at_most"]) == (2, 2)
    assert details["prefix_settled"] == 1
    assert details["accounts"] == [ACCOUNT]
    assert "2 entries were lost" in details["summary"]
    family = stack.shards.keys[number].family
    assert {key for key in await stack.keys() if key.startswith(family)} == {
        stack.shards.keys[number].meta,
        stack.shards.keys[number].due,
    }
    assert len(await incidents(stack, "rebuild")) == 1
    # Of the other shards only the generation changed.
    kept = {key: value for key, value in others.items() if not key.startswith(family)}
    now = await dump(stack, b"lease:new", b"lease:finish")
    assert {key for key in kept if kept[key] != now[key]} <= {
        keys.meta for keys in stack.shards.keys
    }


async def test_entry_that_was_forged_is_never_settled(stack: Stack, number: int) -> None:
    await stack.reserve(ACCOUNT, "h3", 5)  # 5
    await forge(stack, number, 4)
    stack.state.doubt(number, "chain")

    await vet_anew(stack, Vetting(stack.state))

    assert (await shard(stack, number))["mark"] == 3
    assert [seq for seq, _, _ in await lost(stack)] == [4, 5]
    details = await the_rebuild(stack, number)
    assert details["reason"].startswith("entry 4 does not continue the chain")
    assert (details["lost_known"], details["lost_at_most"]) == (2, 2)
    assert await stack.pool.fetchval("SELECT max(seq) FROM journal") == 3


async def test_life_that_forked_off_loses_what_another_one_settled_otherwise(
    stack: Stack, number: int, valkey: Valkey
) -> None:
    """Fails over to a replica at entry 4, which settles 5, and back to one that had its own 5."""
    replica = Files(valkey)
    await asyncio.to_thread(replica.take)
    await stack.reserve(ACCOUNT, "h3", 5)  # 5
    await settle_all(stack)
    await asyncio.to_thread(replica.go_back)
    await until(lambda: stack.wire.nodes()[0].connected)
    for entry_id, kind in (("5-0", "x"), ("6-0", "y")):
        entry = f'{{"account":"{ACCOUNT}","type":"{kind}"}}'
        fields = ("entry", entry, "chain", f"{kind}" * 40)
        await stack.command("XADD", stack.shards.keys[number].stream, entry_id, *fields)
    await stack.command("HSET", stack.shards.keys[number].meta, "seq", 6)

    await vet_anew(stack, Vetting(stack.state))

    assert await lost(stack) == [(5, ACCOUNT, "x"), (6, ACCOUNT, "y")]
    details = await the_rebuild(stack, number)
    assert (details["mark"], details["kept_in_quarantine"], details["lost_known"]) == (5, 2, 2)
    assert details["reason"].startswith("entry 6 does not continue the chain")
    assert await stack.pool.fetchval("SELECT max(seq) FROM journal") == 5


async def test_older_append_only_file_is_rebuilt_before_anything_serves(
    stack: Stack, number: int, valkey: Valkey
) -> None:
    copy = Files(valkey)
    await asyncio.to_thread(copy.take)
    await stack.commit(ACCOUNT, "h2", 20)  # 5
    await settle_all(stack)

    await asyncio.to_thread(copy.go_back)
    await until(lambda: stack.wire.nodes()[0].connected)
    assert (await stack.acct(ACCOUNT))["held"] == "30"  # money that is spent
    await vet_anew(stack, Vetting(stack.state))

    assert (await stack.meta(number))["seq"] == "5"
    assert await stack.acct(ACCOUNT) == {}
    details = await the_rebuild(stack, number)
    assert (details["redis_seq"], details["mark"]) == (4, 5)
    assert details["kept_in_quarantine"] == 0


async def test_operator_rebuilds_one_shard_and_loses_nothing(stack: Stack, number: int) -> None:
    await Vetting(stack.state).force_rebuild([number], "alice")

    assert (await shard(stack, number))["mark"] == 4
    details = await the_rebuild(stack, number)
    assert (details["lost_known"], details["lost_at_most"]) == (0, 0)
    assert details["asked_by"] == "alice"
    assert len(await incidents(stack, "rebuild")) == 1
    assert {row.state for row in stack.state.rows} == {"open"}


async def test_operator_rebuilds_every_shard(stack: Stack) -> None:
    await Vetting(stack.state).force_rebuild(None, "alice")

    assert sorted(i["shard"] for i in await incidents(stack, "rebuild")) == [0, 1, 2, 3]
    assert {row.state for row in stack.state.rows} == {"open"}
    assert all(key.endswith((b"meta", b"due")) for key in await stack.keys())


async def test_deleting_takes_every_key_of_its_shards_and_no_other(
    stack: Stack, number: int
) -> None:
    keys = stack.shards.keys[number]
    for i in range(2500):  # several pages of SCAN, several calls of `delete`
        await stack.command("SET", keys.family + b"key:filler:%d" % i, "x")
    await stack.command("SET", f"{stack.config.prefix}:{{none", "no key of a shard")
    state = stack.state
    node = stack.wire.nodes()[0]
    generation = Generation(state, node, await make_ready(state, node, moved=False))
    await generation.declare(range(4), "test")
    await generation.raise_metas()
    await generation.load_scripts()
    others = {key for key in await stack.keys() if not key.startswith(keys.family)}
    mine = {key for key in await stack.keys() if key.startswith(keys.family)}

    assert await delete_pass(generation, {number: 3, (number + 1) % 4: 0}) == len(mine) - 1
    assert await delete_pass(generation, {number: 3}) == 0
    await empty(generation, {number: 3})

    assert set(await stack.keys()) == others | {keys.meta}


async def test_shard_that_holds_a_lease_is_not_deleted(stack: Stack, number: int) -> None:
    keys = stack.shards.keys[number]
    nonce = stack.state.rows[number].nonce
    names = [*keys.of_shard()[:3], keys.acct(ACCOUNT)]
    await stack.renew_leases()
    code, _ = await stack.shards.run(number, "delete", nonce, names, [3])
    assert code is Code.BUSY
    assert await stack.acct(ACCOUNT)


def test_bound_of_a_loss_is_the_fence_that_the_scripts_have() -> None:
    fence = files("holdfast.lua").joinpath("lib/fence.lua").read_text()
    assert re.findall(r"^local B2 = (\d+)$", fence, re.M) == [str(UNSETTLED_MAX)]
