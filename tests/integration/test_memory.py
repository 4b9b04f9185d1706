"""A Redis whose memory is full refuses transitions, and gets out of it by settling and trimming."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from holdfast.codes import Code
from holdfast.embedded import Valkey
from holdfast.wire import ServerError
from settlement.worker import SettleLoop
from tests.stack import Stack

ENTRIES = 4000


@pytest_asyncio.fixture
async def stack(server_dir: Path, postgres_server: Any) -> AsyncIterator[Stack]:
    with Valkey.start(server_dir / "valkey") as valkey:
        async with Stack(valkey.url, postgres_server.url, shards=1) as stack:
            yield stack


async def used_memory(stack: Stack) -> int:
    info = (await stack.command("INFO", "memory")).decode()
    line = next(line for line in info.splitlines() if line.startswith("used_memory:"))
    return int(line.partition(":")[2])


async def refused(stack: Stack) -> bool:
    try:
        await stack.charge("acme", "one-more", 1)
    except ServerError as error:
        assert error.code == "OOM"
        return True
    return False


async def test_a_full_redis_settles_trims_and_serves_again(stack: Stack) -> None:
    await stack.open("acme", grant=10**9)
    before = await used_memory(stack)
    for i in range(ENTRIES):
        await stack.charge("acme", f"c{i}", 1)
    full = await used_memory(stack)
    # Room for the records, which stay, but not for the stream as well.
    stream = await stack.command("MEMORY", "USAGE", stack.shards.keys[0].stream, "SAMPLES", 0)
    await stack.command("CONFIG", "SET", "maxmemory", full - stream // 2)
    assert full - before > stream // 2
    assert await refused(stack)
    await stack.renew_leases()

    loop = SettleLoop(stack.state)
    while (await loop.round())[0]:
        pass
    assert (await stack.meta(0))["settled"] == str(ENTRIES + 2)
    assert await refused(stack)

    row, keys = stack.state.rows[0], stack.shards.keys[0].of_shard()[:4]
    for _ in range(ENTRIES):  # each call drops some
        code, (gone,) = await stack.shards.run(0, "trim", row.nonce, keys, [row.mark + 1, 1000])
        assert code is Code.OK
        if not gone:
            break
    assert not await refused(stack)


async def test_a_full_redis_can_be_vetted_and_emptied(stack: Stack) -> None:
    await stack.open("acme", grant=10**9)
    await stack.command("CONFIG", "SET", "maxmemory", await used_memory(stack) // 2)
    await stack.vet()
    await stack.stop_leases()
    shard, row = stack.shards.keys[0], stack.state.rows[0]
    await stack.command("DEL", shard.lease_new, shard.lease_finish)
    keys = [shard.meta, shard.lease_new, shard.lease_finish, shard.acct("acme")]
    code, (gone,) = await stack.shards.run(0, "delete", row.nonce, keys, [0])
    assert (code, gone) == (Code.OK, 1)
