"""Acknowledged effects that the journal does not have: how many, and whether they may be gone.

What incidents say of a loss is read here as well, shard by shard.

A Redis that promises less than `settled` may lose the end of what it did: whatever it acknowledged
last. What survived must then be a beginning. Of one shard, nothing may be gone that was answered
before something was asked that survived, within the same life of Redis. Where a life ended, the
history has a note.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tests.faults.asked import named
from tests.faults.history import Note, Operation

__all__ = ["losses_told", "lost_at_most", "not_a_tail"]

Survivors = Mapping[int, Sequence[Operation]]
"""By shard, the acknowledged operations whose effects are in the journal."""


def not_a_tail(
    lost: Iterable[tuple[int, Operation]], survivors: Survivors, notes: Sequence[Note]
) -> Iterator[str]:
    """Lost operations, each with its shard, that are not at the end of a life of Redis.

    A life ends with the first note after an operation was asked. After the last note it is that
    one still: what an isolated primary went on to acknowledge belongs to the life that is over.
    """
    ends = sorted(note.at_ns for note in notes)
    latest: dict[tuple[int, int], Operation | None] = {}
    for shard, operation in lost:
        if not ends:
            yield f"{named(operation)}: no note says that anything was done"
            continue
        end_ns = next((at_ns for at_ns in ends if at_ns >= operation.asked_ns), ends[-1])
        if (shard, end_ns) not in latest:
            kept = [o for o in survivors.get(shard, ()) if (o.answered_ns or end_ns + 1) <= end_ns]
            latest[shard, end_ns] = max(kept, key=lambda kept: kept.asked_ns, default=None)
        last = latest[shard, end_ns]
        if last is not None and last.asked_ns > (operation.answered_ns or 0):
            yield f"{named(operation)}: {named(last)} was asked later and is there"


def losses_told(
    incidents: Iterable[Mapping[str, Any]],
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Shard and numbers, for everything that incidents say was lost or may have been."""
    for incident in incidents:
        details = incident["details"]
        if incident["kind"] in ("lost_tail", "rebuild"):
            yield incident["shard"], details
        elif incident["kind"] == "unsynced_restart":
            for of_shard in details["shards"]:
                yield of_shard["shard"], of_shard


def lost_at_most(incidents: Iterable[Mapping[str, Any]]) -> Counter[int]:
    """By shard, how many entries incidents say were lost at most."""
    told: Counter[int] = Counter()
    for shard, details in losses_told(incidents):
        told[shard] += details["lost_at_most"]
    return told
