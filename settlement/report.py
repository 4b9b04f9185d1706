"""What a reconcile found: sentences for people, each with the rule that was looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

# A broken shard has a finding an account: the first ones say what is wrong, the number how much.
FINDINGS_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing in which the stores, or a store and itself, differ."""

    check: str
    detail: str
    shard: int | None = None
    account: str | None = None


@dataclass(slots=True)
class Report:
    """All of it. `exit_code` is 0 where everything agrees, 1 where something differs, else 2."""

    findings: list[Finding] = field(default_factory=list)
    """At most 1,000; `differences` counts all."""
    differences: int = 0
    uncompared: list[str] = field(default_factory=list)
    """What was not compared, and why; at most 1,000."""
    marks: dict[int, int] = field(default_factory=dict)
    """Per shard the mark at which it was compared."""
    accounts: int = 0
    records: int = 0
    entries: int = 0
    """Journal entries whose chain and sums were computed again (`full`)."""
    unsettled: int = 0
    """Entries that were taken from the stream."""

    def differ(
        self, check: str, detail: str, *, shard: int | None = None, account: str | None = None
    ) -> None:
        self.differences += 1
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(check, detail, shard, account))

    def skip(self, what: str) -> None:
        if len(self.uncompared) < FINDINGS_MAX:
            self.uncompared.append(what)

    @property
    def exit_code(self) -> int:
        if self.differences:
            return 1
        return 2 if self.uncompared else 0
