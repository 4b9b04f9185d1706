"""An append-only file that is cut at any byte, and what a Redis makes of it over two restarts.

    original = Original(kept, states, ends)
    await examine(original, lengths, directory)

For each length Valkey starts on the file as if it had been cut there, and must have the state after
a whole number of scripts, to the last field. Then it gets a new life as vetting gives it one: the
file is rewritten first (protocol: vetting), the generation raised, a lease lent, and an account
charged. It is killed, starts again, and must have the same as before the kill.

Here that is done without a worker, in a fraction of a second; rows/aof_cut.py has a real one do it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast import scripts
from holdfast.codes import Code
from holdfast.keys import ShardKeys, fingerprint
from tests.faults.place import PATIENCE_S
from tests.faults.program import POLL_S
from tests.faults.redis_node import AOF_DIRECTORY, RedisNode

__all__ = ["Original", "State", "examine", "state_of"]

# Starting takes a Valkey 30 ms of a processor, and as long again to be found ready.
_LANES = 3
_NONCE = "0123456789abcdef" * 2
_DAY_MS = 86_400_000
_READS: dict[bytes, Callable[[Any, bytes], Any]] = {
    b"hash": lambda client, key: client.hgetall(key),
    b"zset": lambda client, key: client.zrange(key, 0, -1, withscores=True),
    b"stream": lambda client, key: client.xrange(key),
}

State = dict[bytes, tuple[int, Any]]
"""Every key of a shard but its leases: when it expires (-1: never), and what it holds."""


async def state_of(client: Any, shard: ShardKeys) -> State:
    """Everything that a Redis has. Raises AssertionError where something is not of this shard."""
    leases = (shard.lease_new, shard.lease_finish)
    keys = sorted(set(await client.keys()) - set(leases))
    assert all(key.startswith(shard.family) for key in keys), keys
    async with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.type(key).pexpiretime(key)
        answers = await pipeline.execute()
        for key, kind in zip(keys, answers[::2], strict=True):
            _READS[kind](pipeline, key)
        values = await pipeline.execute()
    return dict(zip(keys, zip(answers[1::2], values, strict=True), strict=True))


@dataclass(frozen=True, slots=True)
class Original:
    """A file whose last scripts are known one by one."""

    kept: Path
    """The append-only files of a Redis with one shard."""
    name: str
    """The file among them that was appended to last."""
    shard: ShardKeys
    account: str
    """One that has funds in every state."""
    ends: Sequence[int]
    """Its length before the scripts, and after each of them."""
    states: Sequence[State]
    """The state at each of these."""

    def scripts_in(self, length: int) -> int:
        """How many of the scripts are whole in so many bytes."""
        return sum(end <= length for end in self.ends) - 1

    def put(self, node: RedisNode, length: int) -> None:
        """Have a node that does not run start on the file as if it had been cut."""
        node.put_back_aof(self.kept)
        os.truncate(node.directory / AOF_DIRECTORY / self.name, length)


async def examine(original: Original, lengths: Iterable[int], directory: Path) -> int:
    """Do it for every length, a few at a time; how many there were.

    Raises AssertionError with the length where it went wrong.
    """
    rest, done = iter(lengths), 0

    async def work(number: int) -> None:
        nonlocal done
        node = RedisNode(directory / f"lane-{number}")
        try:
            for length in rest:
                await _examine(original, length, node)
                done += 1
        finally:
            await node.kill()
            await node.stop()

    async with asyncio.TaskGroup() as group:
        for number in range(_LANES):
            group.create_task(work(number))
    return done


async def _examine(original: Original, length: int, node: RedisNode) -> None:
    whole = original.scripts_in(length)
    where = f"cut at byte {length}, {whole} of the scripts {list(original.ends)} are whole"
    original.put(node, length)
    await node.start()
    async with node.client() as client:
        found = await state_of(client, original.shard)
        assert found == original.states[whole], f"{where}: {_unlike(found, original.states[whole])}"
        await _rewrite(client)
        await _live(client, original)
        lived = await state_of(client, original.shard)
    await node.kill()
    await node.start()
    async with node.client() as client:
        found = await state_of(client, original.shard)
        assert found == lived, f"{where}, after a second restart: {_unlike(found, lived)}"
    await node.kill()


async def _rewrite(client: Any) -> None:
    await client.bgrewriteaof()
    give_up_at = time.monotonic() + PATIENCE_S
    while (info := await client.info("persistence"))["aof_rewrite_in_progress"] or (
        info["aof_rewrite_scheduled"]
    ):
        assert time.monotonic() < give_up_at, info
        await asyncio.sleep(POLL_S)
    assert info["aof_last_bgrewrite_status"] == "ok", info


async def _live(client: Any, original: Original) -> None:
    """A new generation, a lease, and a charge, by the scripts that workers and APIs run."""
    shard, account = original.shard, original.account
    info = await client.info()
    boot = (info["run_id"], info["master_replid"])
    seconds, micros = await client.time()
    now_ms = seconds * 1000 + micros // 1000
    generation = int(await client.hget(shard.meta, "generation") or 0) + 1
    sent = {"amount": 1}
    charge = (account, "{}", 1, "reject", "", fingerprint("charge", sent), _DAY_MS, "", "", "after")
    keys = [*shard.of_account(account), shard.record(account, "after")]
    for text, names, arguments in (
        (scripts.template(scripts.RAISE), keys[:3], (generation, _NONCE, "local")),
        (scripts.render("lease", _NONCE), keys[:4], (now_ms, *boot, 1, now_ms)),
        (scripts.render("charge", _NONCE), keys, charge),
    ):
        code, *answer = await client.eval(text, len(names), *names, *arguments)
        assert code == Code.OK, f"{Code(code).name} {answer}"


def _unlike(found: State, wanted: State) -> str:
    """The keys that differ, with both values."""
    keys = sorted(found.keys() | wanted.keys())
    different = [key for key in keys if found.get(key) != wanted.get(key)]
    return "; ".join(f"{k.decode()}: {found.get(k)}, not {wanted.get(k)}" for k in different)
