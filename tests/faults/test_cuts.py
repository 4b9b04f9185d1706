"""The examination of cut files: half a script is seen where a file has one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.keys import ShardKeys
from holdfast.staging import temporary_directory
from tests.faults.append_only import groups
from tests.faults.cuts import Original, State, examine, state_of
from tests.faults.redis_node import RedisNode

_SHARD = ShardKeys("hf", 0)
_ACCT = _SHARD.acct("acme")
_SCRIPT = """
redis.call('HSET', KEYS[1], 'seq', ARGV[1])
redis.call('HSET', KEYS[2], 'last_seq', ARGV[1])
"""
_AROUND = (b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n")


@pytest.fixture
def directory() -> Iterator[Path]:
    with temporary_directory("holdfast-cuts-") as directory:
        yield directory


async def original(directory: Path) -> Original:
    """Three scripts of two writes each."""
    node = RedisNode(directory / "redis")
    await node.start()
    path = node.aof_files()[-1]
    states: list[State] = []
    ends: list[int] = []
    try:
        async with node.client() as client:
            for seq in range(4):
                await client.eval(_SCRIPT, 2, _SHARD.meta, _ACCT, seq)
                states.append(await state_of(client, _SHARD))
                ends.append(path.stat().st_size)
    finally:
        await node.kill()
        node.keep_aof(directory / "kept")
        await node.stop()
    return Original(directory / "kept", path.name, _SHARD, "acme", ends, states)


async def test_the_file_tells_where_each_script_ends(directory: Path) -> None:
    found = await original(directory)
    file = (found.kept / found.name).read_bytes()
    assert [end for end, _ in groups(file)][-4:] == list(found.ends)
    whole = [found.scripts_in(end + off) for end in found.ends[1:] for off in (-1, 0)]
    assert whole == [0, 1, 1, 2, 2, 3]
    torn = file[: found.ends[-1] - 1]
    assert [end for end, _ in groups(torn)][-3:] == list(found.ends[:3])


async def test_half_a_script_is_found(directory: Path) -> None:
    """Given a file whose writes are not held together, I expect the cut between two of one script
    to be told, and the key that is ahead."""
    found = await original(directory)
    path = found.kept / found.name
    file = path.read_bytes()
    for words in _AROUND:
        file = file.replace(words, b"")
    path.write_bytes(file)
    *_, before, half, whole = [end for end, _ in groups(file)][:-4]
    first = Original(found.kept, found.name, _SHARD, "acme", (before, whole), found.states[:2])
    with pytest.raises(ExceptionGroup) as raised:
        await examine(first, [half], directory)
    (error,) = raised.value.exceptions
    assert f"cut at byte {half}, 0 of" in str(error) and "hf:{000}:meta" in str(error)
    assert "acct" not in str(error)
