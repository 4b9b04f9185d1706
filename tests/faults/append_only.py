"""What stands in an append-only file: commands, and the entries that scripts appended by them.

A script's writes stand between MULTI and EXEC, or alone where it is one; a kill may tear the last
of them. What is not whole counts for nothing here, as for a Redis that reads the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from holdfast.keys import ShardKeys

__all__ = ["Appended", "commands", "entries", "groups"]


class Appended(NamedTuple):
    """An entry as its XADD has it."""

    seq: int
    text: bytes

    def read(self) -> dict[str, Any]:
        """Its fields."""
        fields: dict[str, Any] = orjson.loads(self.text)
        return fields


Command = tuple[int, list[bytes]]
"""Where it ends in the file, and its words."""


def commands(file: bytes) -> Iterator[Command]:
    """All whole commands, up to the one that is torn."""
    at = 0
    while (end := file.find(b"\r\n", at)) >= 0:
        assert file[at : at + 1] == b"*", f"no command at {at}: {file[at : at + 40]!r}"
        count, at, words = int(file[at + 1 : end]), end + 2, []
        for _ in range(count):
            if (end := file.find(b"\r\n", at)) < 0:
                return
            length, first = int(file[at + 1 : end]), end + 2
            at = first + length + 2
            if at > len(file):
                return
            words.append(file[first : at - 2])
        yield at, words


def groups(file: bytes) -> Iterator[tuple[int, list[list[bytes]]]]:
    """What was written in one piece, and where that ends: each script, each single command."""
    within: list[list[bytes]] | None = None
    for end, words in commands(file):
        match words[0].upper():
            case b"MULTI":
                within = []
            case b"EXEC":
                yield end, within or []
                within = None
            case _ if within is None:
                yield end, [words]
            case _:
                within.append(words)


def entries(file: bytes, shards: Sequence[ShardKeys]) -> list[list[Appended]]:
    """The entries that the file has whole, by shard, oldest first."""
    found: dict[bytes, list[Appended]] = {shard.stream: [] for shard in shards}
    for _, group in groups(file):
        for words in group:
            if words[0].upper() == b"XADD" and words[1] in found:
                _, stream, place, _, text, *_ = words
                found[stream].append(Appended(int(place.partition(b"-")[0]), text))
    return [found[shard.stream] for shard in shards]
