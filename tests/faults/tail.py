"""The entries of one life of Redis, and those of them that the journal never got: its lost tail.

    had = await entries_of(old, place)        # while the old primary is alive
    ...                                       # another one serves, and has settled
    lost = await lost_of(place, had)
    calls = await lost_calls(place, lost, history)

So a loss is known entry by entry, from the Redis that has it, and what the checker and the
incidents say of it can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from tests.faults.history import History
from tests.faults.place import Place
from tests.faults.redis_node import Address, RedisNode

__all__ = [
    "Found",
    "assert_told",
    "demoted",
    "entries_of",
    "kept_aside",
    "last_numbers",
    "lost_calls",
    "lost_of",
]


class Found(NamedTuple):
    """An entry as a stream has it."""

    seq: int
    chain: str
    at_ms: int
    """By that Redis's own clock."""
    type: str
    key: str
    """Of the call that asked for it; '' where none did."""
    spends: bool
    """It set something aside or took it: a call that needs `lease:new`."""


def _found(seq: int, chain: str, text: str | bytes) -> Found:
    entry = orjson.loads(text)
    adds = entry["type"] == "extend" and int(entry["amount"]) > 0
    spends = adds or entry["type"] in ("reserve", "charge")
    return Found(seq, chain, int(entry["at"]), entry["type"], entry.get("key") or "", spends)


async def entries_of(node: RedisNode, place: Place) -> list[list[Found]]:
    """All entries that a node has now, by shard; nothing may have been trimmed yet."""
    async with node.client() as client:
        return [_entries(await client.xrange(shard.stream)) for shard in place.shards]


def _entries(page: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> list[Found]:
    return [
        _found(int(name.partition(b"-")[0]), fields[b"chain"].decode(), fields[b"entry"])
        for name, fields in page
    ]


async def demoted(node: RedisNode, place: Place, primary: RedisNode | Address) -> list[list[Found]]:
    """Let a primary follow another one, at this address; all entries that it had in that moment."""
    address = primary.address if isinstance(primary, RedisNode) else primary
    async with node.client() as client, client.pipeline(transaction=True) as pipeline:
        for shard in place.shards:
            pipeline.xrange(shard.stream)
        pipeline.execute_command("REPLICAOF", *address)
        *pages, _ = await pipeline.execute()
    node.replica_of = primary
    return [_entries(page) for page in pages]


async def kept_aside(place: Place) -> list[list[Found]]:
    """The entries of each shard that rebuilds took out of Redis, for an operator to judge."""
    kept: list[list[Found]] = [[] for _ in place.shards]
    async with place.postgres_connection() as connection:
        for row in await connection.fetch(
            "SELECT shard, seq, chain, entry FROM quarantine WHERE origin = 'lost' ORDER BY seq"
        ):
            kept[row["shard"]].append(_found(row["seq"], row["chain"], row["entry"]))
    return kept


async def last_numbers(node: RedisNode, place: Place) -> list[int]:
    """The number of the last entry of each shard."""
    async with node.client() as client:
        return [int(await client.hget(shard.meta, "seq") or 0) for shard in place.shards]


async def lost_of(place: Place, had: Iterable[Sequence[Found]]) -> list[list[Found]]:
    """What of it, by shard, the journal does not have; all there is must be settled.

    Raises AssertionError where that is not the end of what there was.
    """
    lost = []
    async with place.postgres_connection() as connection:
        for number, entries in enumerate(had):
            rows = await connection.fetch("SELECT seq, chain FROM journal WHERE shard = $1", number)
            chains = {row["seq"]: row["chain"] for row in rows}
            gone = [entry for entry in entries if chains.get(entry.seq) != entry.chain]
            assert gone == list(entries[len(entries) - len(gone) :]), f"not a tail: {gone}"
            lost.append(gone)
    return lost


async def lost_calls(
    place: Place, lost: Iterable[Iterable[Found]], history: History
) -> dict[int, int]:
    """How many acknowledged operations each shard lost: their entry is lost, and no other that
    their key has is in the journal."""
    acknowledged = {each.key for each in history.operations if each.outcome == "ok"}
    gone = {
        number: acknowledged & {entry.key for entry in entries}
        for number, entries in enumerate(lost)
    }
    async with place.postgres_connection() as connection:
        keys = sorted(set().union(*gone.values()))
        rows = await connection.fetch("SELECT key FROM journal WHERE key = ANY($1)", keys)
    again = {row["key"] for row in rows}
    return {number: len(keys - again) for number, keys in gone.items() if keys - again}


def assert_told(
    incidents: Iterable[Mapping[str, Any]],
    lost: Sequence[Sequence[Found]],
    *,
    seen: Sequence[int] = (),
    aside: Sequence[Sequence[Found]] = (),
) -> dict[int, int]:
    """Incidents of what one life of Redis lost: one at most a shard, and its numbers are true.

    `lost` is what each shard lost of it; `seen` a number of each that the worker's leases have been
    told: what is lost up to there must be reported. `aside` is what was found in Redis and did not
    continue the journal. Answers how many entries the incidents know of, by shard.
    """
    seen, aside = seen or [0] * len(lost), aside or [()] * len(lost)
    told: dict[int, int] = {}
    for incident in incidents:
        number, details = incident["shard"], incident["details"]
        assert incident["kind"] in ("lost_tail", "rebuild"), incident
        assert number not in told, f"shard {number} is reported twice: {incident}"
        gone, all_gone = lost[number], len(lost[number]) + len(aside[number])
        if incident["kind"] == "rebuild":
            known, base = details["lost_known"], details["mark"]
            assert all_gone <= details["lost_at_most"], f"more is lost than is told: {incident}"
            assert details["kept_in_quarantine"] == len(aside[number]), incident
        else:
            known, base = details["seen_seq"] - details["redis_seq"], details["redis_seq"]
        assert not gone or base == gone[0].seq - 1, f"lost from {gone[0]} on: {incident}"
        assert known <= all_gone, f"less is lost than is told, {all_gone}: {incident}"
        told[number] = known
    for number, (gone, last) in enumerate(zip(lost, seen, strict=True)):
        least = sum(entry.seq <= last for entry in gone)
        known = told.get(number, 0)
        assert known >= least, f"shard {number}: {least} are known to be lost, {known} are told"
    return told
