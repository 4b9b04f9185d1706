"""What the settle loop counts. The table in holdfast/telemetry.py says what each metric means."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram

from holdfast.telemetry import METRICS, Reading
from settlement.state import WorkerState

# A settle takes 5 ms for a few entries and 200 ms for 5,000; with a Postgres that is slow, seconds.
_SETTLE_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
# An entry waits for the next round, 20 to 50 ms, and for the settle before its own.
_AFTER_BUCKETS_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 600.0)


class SettleMetrics:
    """The metrics of one settle loop, in a registry of their own unless one is given."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.entries = self._counter("holdfast_settled_entries_total")
        self.fenced = self._counter("holdfast_settle_fenced_total")
        self.quarantined = self._counter("holdfast_quarantined_entries_total")
        self.doubts = self._counter("holdfast_shard_doubts_total")
        self.settle_seconds = self._histogram("holdfast_settle_seconds", _SETTLE_BUCKETS_S)
        self.after_seconds = self._histogram("holdfast_settled_after_seconds", _AFTER_BUCKETS_S)

    def _counter(self, name: str) -> Counter:
        return Counter(name, METRICS[name].meaning, registry=self.registry)

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, METRICS[name].meaning, buckets=buckets, registry=self.registry)


def backlog(state: WorkerState) -> Iterable[Reading]:
    """The gauge `holdfast_backlog_entries` of every shard that this worker claims."""
    for row in state.claimed():
        yield "holdfast_backlog_entries", (str(row.number),), float(row.backlog)
