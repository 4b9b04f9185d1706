"""What an inspection means, in sentences: what is wrong, and what passes by itself. Pure.

What is wrong with the account itself is judged by settlement/expectation.py, as `reconcile` does;
here stands what its shard and its deadlines add to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast.standing import Line

# Values that the summary names; all of them are in the table.
_NAMED: Final = 8


@dataclass(slots=True)
class Diagnosis:
    """Sentences: `wrong` are faults, `waits` what passes by itself."""

    wrong: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)


def of_shard(
    row: Mapping[str, Any],
    meta: Mapping[str, str],
    leases: Mapping[str, int],
    fault: str,
    settled: int,
) -> Diagnosis:
    """What the shard's row, its `meta` and its leases say.

    `fault` broke the stream behind the mark; `settled` is what Redis knew before the row was read.
    """
    found = Diagnosis()
    number, mark = row["id"], row["mark"]
    if fault:
        found.wrong.append(f"the stream does not continue the journal: {fault}")
    if settled > mark:
        found.wrong.append(
            f"Redis had settled up to entry {settled}, the journal ends at {mark}: Postgres has"
            " lost what it had committed"
        )
    if row["state"] == "stopped":
        found.wrong.append(f"shard {number} is stopped: {row['state_reason']}")
    elif row["state"] != "open":
        why = row["state_reason"] or "this Redis was never vetted"
        found.waits.append(f"shard {number} is {row['state']}: {why}")
    if meta.get("nonce", "") != row["nonce"]:
        found.waits.append(
            f"Redis is in generation {meta.get('generation', '0')}, Postgres in"
            f" {row['generation']}: every call is refused until a worker has vetted this Redis"
        )
    elif not leases["finish"]:
        found.waits.append("no lease: every call is refused until a worker proves that it lives")
    elif not leases["new"]:
        found.waits.append("no lease for new spending: what is held may end, nothing may begin")
    return found


def of_deadlines(deadlines_ms: Iterable[int], now_ms: int) -> Diagnosis:
    """Holds and grants that are over, and still there."""
    late = sum(deadline <= now_ms for deadline in deadlines_ms)
    if not late:
        return Diagnosis()
    what = "1 hold or grant is" if late == 1 else f"{late} holds and grants are"
    return Diagnosis(waits=[f"{what} due: the next call expires what is due, or the sweeper"])


def of_entries(unsettled: int) -> Diagnosis:
    """Entries of the account that wait."""
    if not unsettled:
        return Diagnosis()
    what = "1 entry waits" if unsettled == 1 else f"{unsettled} entries wait"
    return Diagnosis(waits=[f"{what} to be settled: Postgres then has what it lacks now"])


def summary(lines: Iterable[Line], *, wrong: bool, unsettled: int) -> str:
    """The last word: agree, agree but for what waits, or disagree in what."""
    names = [line.name for line in lines if line.verdict == "differs"]
    if names:
        rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f"The stores disagree in {', '.join(names[:_NAMED])}{rest}."
    if wrong:
        return "Something is wrong with this account or its shard: see above."
    if unsettled:
        return "The stores agree, but for what is not settled yet."
    return "The stores agree."
