"""Vetting on real servers: what a Redis must have been through before it serves."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from holdfast.codes import Code
from holdfast.embedded import Postgres, Valkey
from holdfast.wire import ServerError
from settlement.generation import Declared, Generation, vetter
from settlement.queries import sql
from settlement.readiness import Refused as NodeRefused
from settlement.readiness import make_ready
from settlement.rebuild import delete_keys, restart, set_aside, settle_prefix
from settlement.suspicion import look
from settlement.verdict import Fate, Mark, Superseded
from settlement.vetting import Seen, Vetting
from settlement.worker import SettleLoop
from tests.stack import Refused, Stack
from tests.vetted import (
    PATIENCE_S,
    Files,
    Snapshot,
    claim,
    cluster_of_two,
    dump,
    incidents,
    other_worker,
    running,
    settle_all,
    shard,
    until,
    vet,
    vet_anew,
)


@pytest.fixture
def valkey(server_dir: Path) -> Iterator[Valkey]:
    """A Valkey of the test's own, to be killed, flushed and turned back."""
    with Valkey.start(server_dir / "valkey") as server:
        yield server


@pytest.fixture
async def stack(valkey: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    """Both stores as they are on the first day."""
    async with Stack(valkey.url, postgres_server.url, shards=4, vet=False) as stack:
        await claim(stack)
        yield stack


async def generation_of(stack: Stack, vetting: Vetting | None = None) -> Generation:
    """A generation of the one node, not declared yet."""
    node = stack.wire.nodes()[0]
    return Generation(stack.state, node, await make_ready(stack.state, node, moved=False))


# A first start, a restart


async def test_first_start_opens_every_shard(stack: Stack) -> None:
    with pytest.raises(ServerError, match="NOSCRIPT"):
        await stack.shards.run(0, "due", "0" * 32, stack.shards.keys[0].of_shard(), [1])

    async with running(Vetting(stack.state).run()):
        await until(lambda: all(row.state == "open" for row in stack.state.rows))

    boot = await stack.boot(0)
    for number in range(4):
        row = await shard(stack, number)
        assert (row["generation"], row["mark"], row["state"]) == (1, 0, "open")
        assert (row["boot_run_id"], row["boot_replid"]) == boot
        assert (await stack.meta(number))["nonce"] == row["nonce"]
        assert (await stack.meta(number))["durability"] == "local"
    await stack.renew_leases()
    await stack.open("acme", grant=100)
    assert await stack.pool.fetchval("SELECT count(*) FROM incident") == 0


async def test_killed_redis_is_adopted_with_all_that_it_acknowledged(
    stack: Stack, valkey: Valkey
) -> None:
    vetting = await vet(stack)
    await stack.renew_leases()
    await stack.open("acme", grant=100)
    await settle_all(stack)
    await stack.reserve("acme", "h1", 40)
    before = await dump(stack, b"lease:new", b"lease:finish", b"meta")
    metas = [await stack.meta(number) for number in range(4)]

    await asyncio.to_thread(valkey.kill)
    await asyncio.to_thread(valkey.restart)
    await until(lambda: stack.wire.nodes()[0].connected)
    with pytest.raises(ServerError, match="NOSCRIPT"):
        await stack.commit("acme", "h1")
    await vet_anew(stack, vetting)

    assert await dump(stack, b"lease:new", b"lease:finish", b"meta") == before
    for number, was in enumerate(metas):
        now = await stack.meta(number)
        assert now["generation"] == "2"
        assert (now.get("seq"), now.get("chain")) == (was.get("seq"), was.get("chain"))
    with pytest.raises(Refused, match="NO_FINISH"):
        await stack.commit("acme", "h1")
    await stack.renew_leases()
    await stack.commit("acme", "h1")
    await settle_all(stack)
    assert await stack.pool.fetchval("SELECT count(*) FROM incident") == 0
    info = await stack.command("INFO", "persistence")
    assert b"aof_last_bgrewrite_status:ok" in info
    assert b"aof_rewrites:0" not in info


async def test_another_boot_opens_no_earlier_than_the_last_lease_has_ended(
    stack: Stack, valkey: Valkey
) -> None:
    vetting = await vet(stack)
    await asyncio.to_thread(valkey.kill)
    await asyncio.to_thread(valkey.restart)
    await until(lambda: stack.wire.nodes()[0].connected)
    await stack.pool.execute("UPDATE shard SET proof_at = clock_timestamp() WHERE id = 2")

    await vet_anew(stack, vetting)

    since = "SELECT clock_timestamp() - proof_at >= interval '2.5 s' FROM shard WHERE id = 2"
    assert await stack.pool.fetchval(since)


async def test_forgotten_scripts_mean_a_new_generation(stack: Stack) -> None:
    vetting = await vet(stack)
    await stack.renew_leases()
    await stack.open("acme", grant=100)
    await stack.command("SCRIPT", "FLUSH")

    number = stack.shards.number_of("acme")
    stack.state.doubt(number, "NOSCRIPT")
    await vet_anew(stack, vetting)

    await stack.renew_leases()
    await stack.reserve("acme", "h1", 40)
    assert (await shard(stack, number))["generation"] == 2
    assert not stack.state.doubts
    assert await stack.pool.fetchval("SELECT count(*) FROM incident") == 0


async def test_vetting_ends_when_told_to_even_with_a_doubt_at_that_moment(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    vetting, waiting = Vetting(stack.state), asyncio.Event()

    async def nothing() -> None:
        stack.state.doubted.clear()
        asyncio.get_running_loop().call_soon(waiting.set)

    monkeypatch.setattr(vetting, "round", nothing)
    task = asyncio.create_task(vetting.run())
    await waiting.wait()
    stack.state.doubt(0, "at that moment")
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=PATIENCE_S)
    assert done


# Several workers


async def test_workers_that_start_together_make_one_generation(stack: Stack) -> None:
    other = other_worker(stack)
    async with running(Vetting(stack.state).run(), Vetting(other).run()):
        await until(lambda: all(row.state == "open" for row in stack.state.rows + other.rows))

    assert [row.nonce for row in stack.state.rows] == [row.nonce for row in other.rows]
    assert await stack.pool.fetchval("SELECT max(generation) FROM shard") == 1


async def test_doubt_that_is_not_true_changes_nothing(stack: Stack) -> None:
    vetting = await vet(stack)
    await stack.renew_leases()
    await stack.open("acme", grant=100)
    other = other_worker(stack)  # knows no generation yet: whatever it calls is refused
    await other.refresh()
    other.rows[0].nonce = "f" * 32
    other.doubt(0, "NOSCRIPT")
    for number in range(4):
        stack.state.doubt(number, "FENCED")

    await vetting.round()
    await Vetting(other).round()

    assert await stack.pool.fetchval("SELECT max(generation) FROM shard") == 1
    assert other.rows[0].nonce == stack.state.rows[0].nonce
    assert not stack.state.doubts
    assert not other.doubts


async def test_one_vetter_at_a_time_and_none_for_ever(stack: Stack) -> None:
    async with vetter(stack.pool) as first, vetter(stack.pool) as second:
        assert (first, second) == (True, False)
    async with vetter(stack.pool) as third:
        assert third
    # One whose process was stopped keeps its session, and says nothing in it.
    stopped = await asyncpg.connect(stack.config.database_url)
    assert await stopped.fetchval(sql("vetter_claim"))
    await stopped.execute(sql("vetter_expires"))

    async def elected() -> bool:
        async with vetter(stack.pool) as another:
            return another

    await until(elected)
    stopped.terminate()


async def test_vetter_that_was_overtaken_is_refused_at_every_step(stack: Stack) -> None:
    await vet(stack)
    await stack.renew_leases()
    await stack.open("acme", grant=100)
    number = stack.shards.number_of("acme")
    late = await generation_of(stack)
    await late.declare(range(4), "stopped half way")
    await late.raise_metas()
    await late.load_scripts()
    verdicts = await late.judge(forced={number})
    assert verdicts[number].fate is Fate.REBUILD

    finishes = Vetting(other_worker(stack))
    await vet(stack, finishes)
    await stack.state.refresh()
    await stack.renew_leases()
    before = await dump(stack, b"lease:new", b"lease:finish")

    keys = [key for key in before if b":acct:" in key]
    assert keys
    with pytest.raises(Superseded):
        await delete_keys(late, number, keys, 0)
    with pytest.raises(Superseded):
        await restart(late, number)
    with pytest.raises(Superseded):
        await late.raise_metas()
    with pytest.raises(Superseded):
        await late.judge()
    with pytest.raises(Superseded):
        await late.stop(number, "too late")
    with pytest.raises(Superseded):
        await late.open([number])
    assert await dump(stack, b"lease:new", b"lease:finish") == before
    assert (await shard(stack, number))["state"] == "open"
    await stack.reserve("acme", "h1", 40)


async def test_vetter_that_was_overtaken_takes_nothing_for_lost(stack: Stack) -> None:
    """Given a vetter that was stopped when it had decided to rebuild a shard, If another one has
    opened it meanwhile, I expect nothing of what it serves to be put into quarantine."""
    await vet(stack)
    await stack.renew_leases()
    await stack.open("acme", grant=100)
    await settle_all(stack)
    number = stack.shards.number_of("acme")
    late = await generation_of(stack)
    await late.declare(range(4), "stopped half way")
    await late.raise_metas()
    await late.load_scripts()
    verdicts = await late.judge(forced={number})
    await vet(stack, Vetting(other_worker(stack)))
    await stack.state.refresh()
    await stack.renew_leases()
    await stack.reserve("acme", "h1", 40)

    with pytest.raises(Superseded):
        await set_aside(late, number, verdicts[number])

    assert await stack.rows("quarantine") == []


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
async def test_vetter_that_dies_leaves_the_rest_to_the_next(stack: Stack, steps: int) -> None:
    await vet(stack)
    await stack.renew_leases()
    await stack.open("acme", grant=100)
    dies = await generation_of(stack)
    await dies.declare(range(4), "dies")
    for step in (dies.raise_metas, dies.load_scripts, dies.judge)[:steps]:
        await step()

    await vet(stack, Vetting(other_worker(stack)))

    await stack.state.refresh()
    assert {row.generation for row in stack.state.rows} == {3}
    await stack.renew_leases()
    await stack.reserve("acme", "h1", 40)
    assert await stack.pool.fetchval("SELECT count(*) FROM incident") == 0


# A node that must not serve


async def test_node_with_wrong_settings_stays_closed_until_they_are_mended(
    postgres_server: Postgres, server_dir: Path
) -> None:
    options = ("--maxmemory-policy", "allkeys-lru")
    with Valkey.start(server_dir / "valkey", extra_args=options) as server:
        async with Stack(server.url, postgres_server.url, vet=False) as stack:
            async with running(Vetting(stack.state).run()):

                async def told() -> bool:
                    return len(await incidents(stack, "redis_settings")) == 1

                await until(told)
                assert {row.state for row in stack.state.rows} == {"vetting"}
                await stack.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
                await until(lambda: all(row.state == "open" for row in stack.state.rows))

            (incident,) = await incidents(stack, "redis_settings")
            assert "allkeys-lru" in incident["summary"]
            assert "CONFIG SET maxmemory-policy noeviction" in incident["summary"]
            assert incident["closed_by"] == "worker"


@pytest.mark.parametrize(
    ("durability", "vouched"), [("memory", False), ("local", False), ("local", True)]
)
async def test_what_a_node_promises_is_what_it_can_keep(
    postgres_server: Postgres, server_dir: Path, durability: str, vouched: bool
) -> None:
    with Valkey.start(server_dir / "valkey", appendfsync="everysec") as server:
        async with Stack(
            server.url,
            postgres_server.url,
            vet=False,
            durability=durability,
            redis_vouched=vouched,
        ) as stack:
            vetting = Vetting(stack.state)
            if durability == "local":
                # That it can be asked settles it: an operator's word is for a Redis that cannot.
                suspects = await look(stack.state, {})
                with pytest.raises(NodeRefused, match="appendfsync: it is everysec"):
                    await make_ready(stack.state, suspects[0].node, moved=True)
                assert {row.state for row in stack.state.rows} == {"vetting"}
            else:
                await vet(stack, vetting)
                assert (await stack.meta(0))["durability"] == "memory"


# Stores that went back


async def test_redis_that_came_back_without_its_tail_is_reported(
    stack: Stack, valkey: Valkey
) -> None:
    number = stack.shards.number_of("acme")
    await vet(stack)
    await stack.renew_leases()
    await stack.open("acme", grant=100)
    await settle_all(stack)
    await stack.reserve("acme", "h1", 10)
    files = Files(valkey)
    await asyncio.to_thread(files.take)
    await stack.reserve("acme", "h2", 10)
    await stack.reserve("acme", "h3", 10)
    seen = {number: Seen(stack.state.rows[number].nonce, 5)}

    await asyncio.to_thread(files.go_back)
    await vet_anew(stack, Vetting(stack.state, seen))

    assert (await stack.meta(number))["seq"] == "3"
    (incident,) = await incidents(stack, "lost_tail")
    assert incident["shard"] == number
    assert incident["details"].count('"seen_seq": 5') == 1
    assert "at least 2 entries up to 5 are lost" in incident["summary"]
    await settle_all(stack)


async def test_postgres_that_lost_commits_is_refilled_from_the_stream(
    stack: Stack,
) -> None:
    number = stack.shards.number_of("acme")
    vetting = await vet(stack)
    await stack.renew_leases()
    await stack.open("acme", grant=100)
    await settle_all(stack)
    snapshot = Snapshot(stack)
    await snapshot.take()
    await stack.renew_leases()
    await stack.reserve("acme", "h1", 40)
    await stack.commit("acme", "h1", 13)
    await settle_all(stack)
    await snapshot.go_back()

    stack.state.doubt(number, "fenced")
    await vet_anew(stack, vetting)

    (incident,) = await incidents(stack, "postgres_went_back")
    assert "up to entry 4" in incident["summary"]
    assert "Postgres had entry 2" in incident["summary"]
    await settle_all(stack)
    assert await stack.pool.fetchval("SELECT count(*) FROM journal") == 4
    acct = await stack.acct("acme")
    row = await stack.pool.fetchrow("SELECT available, held, spent, version FROM account")
    assert {name: str(value) for name, value in row.items()} == {
        name: acct[name] for name in ("available", "held", "spent", "version")
    }
    await stack.renew_leases()
    await stack.reserve("acme", "h2", 40)


async def test_shard_opens_with_all_settled_again_that_postgres_lost(stack: Stack) -> None:
    """Else a worker doubts what it reads, vetting adopts it as it is, and so on for ever."""
    number = stack.shards.number_of("acme")
    vetting = await vet(stack)
    await stack.renew_leases()
    await stack.open("acme", grant=100)
    await settle_all(stack)
    snapshot = Snapshot(stack)
    await snapshot.take()
    await stack.renew_leases()
    await stack.reserve("acme", "h1", 40)
    await stack.commit("acme", "h1", 13)
    await settle_all(stack)
    await stack.reserve("acme", "h2", 40)  # entry 5, which nobody has settled
    await snapshot.go_back()
    loop = SettleLoop(stack.state)

    async def doubted() -> bool:
        await loop.round()
        return number in stack.state.doubts

    await until(doubted)
    await vet_anew(stack, vetting)

    row = await shard(stack, number)
    assert (row["generation"], row["state"], row["mark"]) == (2, "open", 4)
    for _ in range(3):  # a fault is doubted when it is read the second time
        await loop.round()
        await vetting.round()
        assert not stack.state.doubts
    row, meta = await shard(stack, number), await stack.meta(number)
    assert (row["generation"], row["mark"], meta["settled"]) == (2, 5, "5")
    assert row["chain"] == meta["chain"]
    assert len(await incidents(stack, "postgres_went_back")) == 1
    assert await stack.pool.fetchval("SELECT count(*) FROM journal") == 5


async def test_postgres_that_cannot_be_refilled_stops_the_shard_until_an_operator_decides(
    stack: Stack,
) -> None:
    number = stack.shards.number_of("acme")
    vetting = await vet(stack)
    await stack.renew_leases()
    await stack.open("acme", grant=100)
    await settle_all(stack)
    snapshot = Snapshot(stack)
    await snapshot.take()
    await stack.renew_leases()
    for hold in ("h1", "h2"):
        await stack.reserve("acme", hold, 10)
    await settle_all(stack)
    stream = stack.shards.keys[number].stream
    await stack.command("XTRIM", stream, "MINID", "4-0")  # entry 3 is gone, 4 is there
    await snapshot.go_back()

    stack.state.doubt(number, "fenced")
    await vet_anew(stack, vetting)

    assert [row.state for row in stack.state.rows].count("stopped") == 1
    (incident,) = await incidents(stack, "stopped")
    assert "Redis had settled up to entry 4, the journal ends at 2" in incident["summary"]
    stopped = await shard(stack, number)
    assert "the stream continues it to 2 only" in stopped["state_reason"]
    assert (await stack.acct("acme"))["held"] == "20"  # nothing was deleted
    await vetting.round()
    assert (await shard(stack, number))["generation"] == stopped["generation"]

    await vetting.force_rebuild([number], "alice")

    assert (await shard(stack, number))["state"] == "open"
    assert await stack.acct("acme") == {}
    (incident,) = await incidents(stack, "rebuild")
    assert '"asked_by": "alice"' in incident["details"]


def falls_back_before_opening(stack: Stack, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Just before this shard opens, Postgres loses what the vetting has settled of it."""
    snapshot, settles, opens = Snapshot(stack), settle_prefix, Generation.open
    names = ("settlement.vetting.settle_prefix", "settlement.rebuild.settle_prefix")

    async def remembered(generation: Generation, declared: Declared, last: int) -> Mark:
        if declared.number == number:
            await snapshot.take()
            for name in names:
                monkeypatch.setattr(name, settles)
        return await settles(generation, declared, last)

    async def fallen_back(generation: Generation, numbers: Iterable[int], *rest: Any) -> None:
        wanted = list(numbers)
        if number in wanted:
            monkeypatch.setattr(Generation, "open", opens)
            await snapshot.go_back()
        await opens(generation, wanted, *rest)

    for name in names:
        monkeypatch.setattr(name, remembered)
    monkeypatch.setattr(Generation, "open", fallen_back)


async def is_refused(vetting: Vetting) -> bool:
    """Whether this round ends because Postgres is not what it was."""
    try:
        await vetting.round()
    except Superseded as error:
        return "Postgres went back" in str(error)
    return False


async def lost_in_between(stack: Stack) -> tuple[Vetting, int]:
    """A shard with four entries that Redis knows to be settled, of which Postgres has two."""
    number = stack.shards.number_of("acme")
    vetting = await vet(stack)
    await stack.renew_leases()
    await stack.open("acme", grant=100)
    await settle_all(stack)
    before = Snapshot(stack)
    await before.take()
    await stack.reserve("acme", "h1", 40)
    await stack.commit("acme", "h1", 13)
    await settle_all(stack)
    await before.go_back()
    return vetting, number


async def test_shard_stays_closed_where_postgres_falls_back_again_before_it_opens(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    vetting, number = await lost_in_between(stack)
    falls_back_before_opening(stack, number, monkeypatch)
    stack.state.doubt(number, "fenced")

    await until(lambda: is_refused(vetting))
    row, meta = await shard(stack, number), await stack.meta(number)
    assert (row["generation"], row["state"], row["mark"]) == (2, "vetting", 2)
    assert meta["settled"] == "4"
    await vet_anew(stack, vetting)

    row = await shard(stack, number)
    assert (row["generation"], row["state"], row["mark"]) == (3, "open", 4)
    assert len(await incidents(stack, "postgres_went_back")) == 1
    assert await stack.pool.fetchval("SELECT count(*) FROM journal") == 4
    await settle_all(stack)
    await stack.renew_leases()
    await stack.reserve("acme", "h2", 40)


async def test_shard_is_stopped_where_postgres_falls_back_behind_its_rebuild(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis was emptied by then: nothing can give back what Postgres lost, and nobody opens it."""
    vetting, number = await vet(stack), stack.shards.number_of("acme")
    await stack.renew_leases()
    await stack.open("acme", grant=100)
    await settle_all(stack)
    for hold in ("h1", "h2", "h3"):
        await stack.reserve("acme", hold, 10)
    await stack.command("XDEL", stack.shards.keys[number].stream, "5-0")
    falls_back_before_opening(stack, number, monkeypatch)
    stack.state.doubt(number, "a gap")

    await until(lambda: is_refused(vetting))
    assert (await shard(stack, number))["mark"] == 2
    await vet_anew(stack, vetting)

    row, meta = await shard(stack, number), await stack.meta(number)
    assert (row["state"], row["mark"], meta["settled"]) == ("stopped", 2, "4")
    assert row["generation"] == 3
    (incident,) = await incidents(stack, "stopped")
    assert "Redis had settled up to entry 4, the journal ends at 2" in incident["summary"]


async def test_meta_that_no_script_can_read_stops_its_shard_alone(stack: Stack) -> None:
    vetting = await vet(stack)
    meta = stack.shards.keys[1].meta
    await stack.command("DEL", meta)
    await stack.command("SET", meta, "not a hash")

    stack.state.doubt(1, "ERR")
    await vet_anew(stack, vetting)

    assert [row.state for row in stack.state.rows] == ["open", "stopped", "open", "open"]
    assert "WRONGTYPE" in (await incidents(stack, "stopped"))[0]["summary"]
    await vetting.force_rebuild([1], "alice")
    assert [row.state for row in stack.state.rows] == ["open"] * 4


# A cluster


async def test_node_that_is_away_closes_nobody_else(
    postgres_server: Postgres, server_dir: Path
) -> None:
    with cluster_of_two(server_dir) as servers:
        async with Stack(servers[0].url, postgres_server.url, shards=8, vet=False) as stack:
            vetting = await vet(stack)
            homes = [stack.shards.node_of(n).address.port for n in range(8)]
            here = [n for n in range(8) if homes[n] == servers[0].port]
            there = [n for n in range(8) if homes[n] == servers[1].port]
            assert here
            assert there
            await asyncio.to_thread(servers[1].kill)
            await stack.command("SCRIPT", "FLUSH")
            stack.state.doubt(here[0], "NOSCRIPT")

            def newer() -> bool:
                rows = [stack.state.rows[number] for number in here]
                return all(row.state == "open" and row.generation > was for row in rows)

            was = stack.state.rows[here[0]].generation
            async with running(vetting.run()):
                await until(newer)
                nonces = [stack.state.rows[number].nonce for number in here]
                await asyncio.to_thread(servers[1].restart)
                old = {number: stack.state.rows[number].nonce for number in there}
                await until(
                    lambda: all(
                        stack.state.rows[n].nonce != old[n] and stack.state.rows[n].state == "open"
                        for n in there
                    )
                )
            assert [stack.state.rows[number].nonce for number in here] == nonces
            code, _ = await stack.shards.run(
                there[0],
                "due",
                stack.state.rows[there[0]].nonce,
                stack.shards.keys[there[0]].of_shard(),
                [1],
            )
            assert code is Code.OK
