"""What a check found: things that must not be, by kind, and numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["KINDS", "Finding", "Verdict"]

KINDS = {
    "duplicate": "a key had two effects",
    "lost": "an acknowledged effect is not in the journal",
    "not_a_tail": "what was lost is not the end of a life of Redis",
    "unreported": "more was lost than incidents say",
    "refused_effect": "a refused operation had an effect",
    "stray": "an effect that nobody asked for",
    "wrong_effect": "an effect is not what was asked for",
    "wrong_answer": "an answer is not what the journal has",
    "order": "what was answered before another was asked comes after it",
    "gap": "a number is missing",
    "chain": "an entry does not continue the chain",
    "version": "a version is missing, or there twice",
    "balance": "an entry's balances are not what the model has",
    "overspend": "more was taken than was there",
    "record": "a hold or a record is not what the model has",
    "early": "something expired before its time",
    "columns": "a row of the journal is not what its entry says",
    "tables": "accounts and records in Postgres are not what the journal adds up to",
    "final": "what the service answers in the end is not what the journal adds up to",
    "unsettled": "entries did not reach the journal",
    "quarantined": "an entry was rejected",
    "unreadable": "an entry cannot be read",
    "untrue": "a refusal gives a reason that was not so",
    "unexpected": "a refusal that nothing in the load calls for",
}
"""Every kind of finding, and what it means."""

# Of one kind, so many are told; the rest is counted.
_TOLD = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that must not be."""

    kind: str
    detail: str


@dataclass(slots=True)
class Verdict:
    """What is wrong with a run, if anything, and what there was."""

    findings: dict[str, list[str]] = field(default_factory=dict)
    """By kind, the first few of each."""
    found: Counter[str] = field(default_factory=Counter)
    """By kind, how many in all."""
    operations: int = 0
    acknowledged: int = 0
    refused: int = 0
    applied: int = 0
    """Of the unknown outcomes, those that had happened."""
    absent: int = 0
    """Of the unknown outcomes, those that had not."""
    lost: int = 0
    """Acknowledged, and not in the journal."""
    lost_by_shard: Counter[int] = field(default_factory=Counter)
    reported_by_shard: Counter[int] = field(default_factory=Counter)
    """What incidents say was lost at most."""
    entries: int = 0
    accounts: int = 0
    repeated: int = 0
    """Acknowledged operations that were asked again at the end, and answered the same."""

    def add(self, kind: str, detail: str) -> None:
        """Something is wrong."""
        assert kind in KINDS, kind
        self.found[kind] += 1
        told = self.findings.setdefault(kind, [])
        if len(told) < _TOLD:
            told.append(detail)

    @property
    def clean(self) -> bool:
        return not self.found

    def figures(self) -> dict[str, int | float | str]:
        """For the report of a row."""
        return {
            "operations": self.operations,
            "acknowledged": self.acknowledged,
            "unknown_applied": self.applied,
            "unknown_absent": self.absent,
            "lost": self.lost,
            "entries": self.entries,
        }

    def assert_clean(self) -> None:
        """Raises AssertionError with every kind of finding and the first ones of each."""
        assert self.clean, "\n" + self.text()

    def text(self) -> str:
        """All that was found, for people."""
        lines = [str(self.figures())]
        for kind, told in self.findings.items():
            lines.append(f"{self.found[kind]} × {kind}: {KINDS[kind]}")
            lines += [f"    {detail}" for detail in told]
        return "\n".join(lines)
