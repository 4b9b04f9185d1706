"""Latencies of many requests, and what is told of them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LatencySummary", "new_series", "percentile", "summarise"]


@dataclass(frozen=True)
class LatencySummary:
    """Of `count` answers; times in milliseconds, 0 where there were none."""

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


def new_series() -> array[float]:
    """An empty series of seconds: 8 bytes an answer, so that ten million take 80 MB."""
    return array("d")


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that `share` (above 0, at most 1) of the values do not exceed.

    The nearest-rank definition: always a value that occurred. 0 for no values.
    """
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def summarise(series: Sequence[float]) -> LatencySummary:
    """The summary of a series of seconds."""
    ordered = sorted(series)

    def at(share: float) -> float:
        return round(percentile(ordered, share) * 1_000, 3)

    mean_s = math.fsum(ordered) / len(ordered) if ordered else 0.0
    return LatencySummary(
        count=len(ordered),
        mean_ms=round(mean_s * 1_000, 3),
        p50_ms=at(0.5),
        p90_ms=at(0.9),
        p99_ms=at(0.99),
        p999_ms=at(0.999),
        max_ms=at(1.0),
    )
