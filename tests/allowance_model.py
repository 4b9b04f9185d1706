"""What an allowance must have given, reckoned day by day: no arithmetic of months, no stores."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any


@dataclass
class Expected:
    """What an account must have been given, reckoned day by day, without knowing of months."""

    kind: str
    anchor: date
    credits: int
    cap: int
    start: date
    carried: int = 0
    follows: bool = False
    given: bool = False
    left: int = 0
    periods: list[dict[str, Any]] = field(default_factory=list)

    def begins(self, today: date) -> bool:
        if self.kind == "month":
            return today.day == 1
        last_of_month = (today + timedelta(1)).day == 1
        return today.day == self.anchor.day or (last_of_month and today.day < self.anchor.day)

    def live(self, today: date) -> None:
        """A day that begins, with nobody looking."""
        if self.begins(today) and today > self.start:
            if not self.given:
                self._note(missed=True)
                self.left = self.credits + (min(self.cap, self.carried) if self.follows else 0)
            self.carried, self.start = self.left, today
            self.given, self.follows = False, True

    def look(self) -> None:
        """A worker looks."""
        if not self.given:
            self._note(missed=False)
            rolled = min(self.cap, self.carried) if self.follows else 0
            self.periods[-1]["rolled_over"] = rolled
            self.left, self.given = self.credits + rolled, True

    def _note(self, *, missed: bool) -> None:
        granted = 0 if missed else self.credits
        self.periods.append(
            {"period_start": self.start, "granted": granted, "rolled_over": 0, "missed": missed}
        )
