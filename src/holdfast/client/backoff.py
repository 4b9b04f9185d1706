"""When a failed call is repeated, and after how long."""

from __future__ import annotations

import random
from dataclasses import dataclass

from holdfast.client.errors import HoldfastError

__all__ = ["Backoff"]


@dataclass(frozen=True)
class Backoff:
    """At most `retries` repeats, of errors marked retryable only; 0 repeats nothing.

    The wait is drawn evenly from 0 to `base_s` doubled at each repeat, at most `cap_s`, so that
    callers cut off together do not come back together. A Retry-After is a floor under it; one
    that is longer than `patience_s` is the caller's to sit out, and ends the repeats.
    With the defaults a call ends within about 4 s of waiting, or 4 × 30 s where the service
    asks for it: longer than a restart with its vetting takes.
    """

    retries: int = 4
    base_s: float = 0.25
    cap_s: float = 4.0
    patience_s: float = 30.0

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ValueError(f"retries is {self.retries}: 0 repeats nothing, fewer is not a number")

    def wait_s(self, repeats: int, error: HoldfastError) -> float | None:
        """Seconds to wait after `repeats` repeats and this error; None where it is final."""
        if not error.retryable or repeats >= self.retries:
            return None
        floor_s = error.retry_after_s or 0.0
        if floor_s > self.patience_s:
            return None
        return floor_s + random.uniform(0.0, min(self.cap_s, self.base_s * 2.0**repeats))
