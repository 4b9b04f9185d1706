"""Whether what a denial says was true: that funds were short, that a hold had ended.

A denial has no number of its own. It was decided after everything that was answered before it was
asked, and before everything that was asked after it was answered; of the account's versions between
those two, one must be as the denial says. What can be told from balances alone is told: of a refund
that exceeds what was taken, nothing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from tests.faults.account import Record
from tests.faults.asked import named
from tests.faults.history import Operation

__all__ = ["Timeline"]


class Timeline:
    """What an account had, version by version, and when its operations were asked and answered."""

    def __init__(self) -> None:
        self.rooms: list[int] = []
        """What could be spent after version 1, 2, ..."""
        self.asked: list[tuple[int, int]] = []
        """Of each effect, when it was asked and its version."""
        self.answered: list[tuple[int, int]] = []
        """Of those that were answered, when and the version."""

    def note(self, operation: Operation, version: int) -> None:
        """An operation has this version."""
        self.asked.append((operation.asked_ns, version))
        if operation.answered_ns is not None:
            self.answered.append((operation.answered_ns, version))

    def untrue(self, denied: Iterable[Operation], records: Mapping[str, Record]) -> Iterator[str]:
        """Denials of this account that nothing bears out. `records` are as at its end."""
        self.asked.sort()
        self.answered.sort()
        # Version of the last effect that was surely before, of the first that was surely after.
        before = list(accumulate((version for _, version in self.answered), max))
        last_first = accumulate((version for _, version in reversed(self.asked)), min)
        after = list(last_first)[::-1]
        for operation in denied:
            place = bisect_left(self.answered, (operation.asked_ns, 0))
            first = before[place - 1] if place else 1
            place = bisect_right(self.asked, (operation.answered_ns or 0, 1 << 62))
            last = after[place] - 1 if place < len(after) else len(self.rooms)
            why = self._untrue(operation, first, last, records.get(operation.hold or ""))
            if why:
                yield f"{named(operation)} was refused with {operation.code}: {why}"

    def _untrue(self, operation: Operation, first: int, last: int, hold: Record | None) -> str:
        """Why a denial between these two versions cannot be true, or ''."""
        if operation.code in ("insufficient_credits", "commit_exceeds_funds"):
            least = min(self.rooms[first - 1 : last], default=0)
            wanted = operation.sent.get("min_amount", operation.amount or 0)
            # A commit may want more than that out of its hold, never less out of the account.
            return f"{least} were there all the time" if 0 < wanted <= least else ""
        if hold is None:
            return ""
        state = f"the hold is {hold.state}, since version {hold.ended}"
        over = 0 < hold.ended <= last
        match operation.code:
            case "hold_committed" | "hold_released":
                return "" if over and f"hold_{hold.state}" == operation.code else state
            case "hold_expired":
                return "" if over and (hold.late or hold.state == "expired") else state
            case "hold_open":
                return state if 0 < hold.ended <= first else ""
        return ""
