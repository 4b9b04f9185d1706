"""What a real Valkey says of itself, and what is found wrong with it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from holdfast.config import Durability
from holdfast.embedded import Valkey
from holdfast.wire import Node, Wire
from settlement.redis_settings import NodeReport, inspect
from tests.vetted import until


@asynccontextmanager
async def first_node(url: str) -> AsyncIterator[Node]:
    wire = Wire(url)
    await wire.connect()
    try:
        yield wire.nodes()[0]
    finally:
        await wire.close()


async def report(url: str, durability: Durability = "local", vouched: bool = False) -> NodeReport:
    async with first_node(url) as node:
        return await inspect(node, durability, vouched)


def refused(found: NodeReport) -> list[str]:
    return [finding.setting for finding in found.refusals]


async def test_embedded_valkey_is_set_up_for_money(valkey_server: Valkey) -> None:
    found = await report(valkey_server.url)
    assert refused(found) == []
    assert [finding.setting for finding in found.findings] == ["maxmemory"]
    assert (found.promise, found.appends) == ("local", True)
    assert len(found.boot.run_id) == len(found.boot.replid) == 40
    assert int(found.version.split(".")[0]) >= 7


@pytest.mark.parametrize(
    ("setting", "value", "mend"),
    [
        ("maxmemory-policy", "volatile-lru", "CONFIG SET maxmemory-policy noeviction"),
        ("appendonly", "no", "CONFIG SET appendonly yes"),
        ("appendfsync", "everysec", "CONFIG SET appendfsync always"),
        ("no-appendfsync-on-rewrite", "yes", "CONFIG SET no-appendfsync-on-rewrite no"),
    ],
)
async def test_wrong_setting_refuses_the_node_and_is_mended_as_told(
    server_dir: Path, setting: str, value: str, mend: str
) -> None:
    with Valkey.start(server_dir / "valkey", extra_args=(f"--{setting}", value)) as server:
        found = await report(server.url)
        assert refused(found) == [setting]
        assert mend in str(found.refusals[0])
        if setting != "maxmemory-policy":
            assert found.promise == "memory"

        async with first_node(server.url) as node:
            await node.call(*mend.split())

            async def written() -> bool:
                return b"aof_rewrite_in_progress:0" in await node.call("INFO", "persistence")

            await until(written)  # a Valkey that writes its first file does not end
        assert refused(await report(server.url)) == []


@pytest.mark.parametrize("appendonly", ["yes", "no"])
async def test_memory_durability_needs_no_sync(server_dir: Path, appendonly: str) -> None:
    options = ("--appendonly", appendonly, "--appendfsync", "everysec")
    with Valkey.start(server_dir / "valkey", extra_args=options) as server:
        found = await report(server.url, "memory")
        assert refused(found) == []
        assert found.promise == "memory"
        warned = [finding.setting for finding in found.findings]
        assert ("appendonly" in warned) == (appendonly == "no")


async def test_redis_that_forbids_config_must_be_vouched_for(server_dir: Path) -> None:
    with Valkey.start(server_dir / "valkey") as server:
        async with first_node(server.url) as node:
            rules = ("on", ">secret", "~*", "+@all", "-config")
            await node.call("ACL", "SETUSER", "limited", *rules)
        url = server.url.replace("//", "//limited:secret@")

        assert refused(await report(url)) == ["CONFIG"]
        found = await report(url, vouched=True)
        assert refused(found) == []
        assert found.promise == "memory"
        assert "`memory` at most, though `local` is configured" in str(found.findings[-1])


async def test_policy_is_known_even_where_config_is_forbidden(server_dir: Path) -> None:
    options = ("--maxmemory-policy", "allkeys-lfu")
    with Valkey.start(server_dir / "valkey", extra_args=options) as server:
        async with first_node(server.url) as node:
            await node.call("ACL", "SETUSER", "limited", "on", ">s", "~*", "+@all", "-config")
        url = server.url.replace("//", "//limited:s@")
        assert refused(await report(url, vouched=True)) == ["maxmemory-policy"]


async def test_replicas_and_primaries_are_told_apart(server_dir: Path) -> None:
    with (
        Valkey.start(server_dir / "primary") as primary,
        Valkey.start(server_dir / "replica") as replica,
    ):
        async with first_node(replica.url) as node:
            await node.call("REPLICAOF", "127.0.0.1", primary.port)

        async def attached() -> bool:
            found = await report(primary.url)
            return "min-replicas-to-write" in [finding.setting for finding in found.findings]

        await until(attached)
        assert refused(await report(primary.url)) == []
        assert refused(await report(replica.url)) == ["role"]
        async with first_node(primary.url) as node:
            await node.call("CONFIG", "SET", "min-replicas-to-write", 1)
        assert not await attached()


async def test_cluster_without_all_its_slots_is_a_risk(server_dir: Path) -> None:
    options = ("--cluster-enabled", "yes")
    with Valkey.start(server_dir / "valkey", extra_args=options) as server:
        client = redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 100)  # type: ignore[no-untyped-call]
        client.close()
        found = await report(server.url)
        assert refused(found) == []
        assert "cluster_state" in [finding.setting for finding in found.findings]
