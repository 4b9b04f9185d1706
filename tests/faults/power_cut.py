"""What a power cut does to an append-only file that is synced every second: its end is gone.

synced = PowerCut.synced(node)         # the load goes on for a moment
await node.kill()
cut = PowerCut.of(node, shards, synced, rng)
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from holdfast.keys import ShardKeys
from tests.faults.append_only import Appended, entries, groups
from tests.faults.redis_node import RedisNode

__all__ = ["PowerCut"]


@dataclass(frozen=True, slots=True)
class PowerCut:
    """What was cut off; lists are by shard."""

    length: int
    """Bytes that are gone."""
    written: list[list[Appended]]
    """All entries that there were."""
    unsynced: list[int]
    """How many of them might have gone."""
    seen: list[int]
    """The last entry that a worker knew of for sure, by the leases that it lent."""

    @staticmethod
    def synced(node: RedisNode) -> int:
        """The length of the file now, which is taken for what was synced last."""
        return node.aof_files()[-1].stat().st_size

    @classmethod
    def of(
        cls, node: RedisNode, shards: Sequence[ShardKeys], synced: int, rng: random.Random
    ) -> Self:
        """Cut the file of a node that was killed, at any byte behind `synced`."""
        path = node.aof_files()[-1]
        file = path.read_bytes()
        written, before = entries(file, shards), entries(file[:synced], shards)
        length = rng.randint(synced, len(file))
        os.truncate(path, length)
        return cls(
            length=len(file) - length,
            written=written,
            unsynced=[len(a) - len(b) for a, b in zip(written, before, strict=True)],
            seen=[_seen(file, shard) for shard in shards],
        )


def _seen(file: bytes, shard: ShardKeys) -> int:
    """The last entry at the last lease but one: the answer to the last may not have arrived."""
    seq, lent = 0, [0, 0]
    for _, group in groups(file):
        for words in group:
            if words[:2] == [b"XADD", shard.stream]:
                seq = int(words[2].partition(b"-")[0])
            elif words[:3] == [b"HSET", shard.meta, b"clock_ms"]:
                lent = [lent[1], seq]
    return lent[0]
