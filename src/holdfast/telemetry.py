"""What holdfast tells about itself: every metric and every log event, in one table each.

Metrics go through prometheus_client. Several API workers share `config.metrics_dir`: each writes
its own files there and any of them answers `/metrics` for all; without a directory a process counts
for itself alone. No metric carries an account, a hold or a key. Logs are JSON lines on stderr; a
call that succeeds logs nothing.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import orjson
import structlog

from holdfast.config import Config

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Histogram
    from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

    from holdfast.wire import Traffic


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its kind, what it means, and what tells its series apart."""

    kind: Literal["counter", "histogram", "gauge"]
    meaning: str
    labels: tuple[str, ...] = ()


# Every metric. Gauges are asked for when somebody reads `/metrics`; they are nowhere stored.
METRICS: Final[Mapping[str, Metric]] = {
    "holdfast_call_seconds": Metric(
        "histogram",
        "Time from a call's first byte read to its last byte written; result is ok, replay or the"
        " code of the problem.",
        ("call", "result"),
    ),
    "holdfast_wire_sent_total": Metric("counter", "Commands sent to Redis."),
    "holdfast_wire_writes_total": Metric("counter", "Writes that carried those commands."),
    "holdfast_wire_timeouts_total": Metric(
        "counter", "Commands that Redis did not answer in time."
    ),
    "holdfast_wire_reconnects_total": Metric("counter", "Connections to Redis after the first."),
    "holdfast_wire_bytes_out_total": Metric("counter", "Bytes written to Redis."),
    "holdfast_wire_bytes_in_total": Metric("counter", "Bytes read from Redis."),
    "holdfast_shard_open": Metric(
        "gauge", "1 where the shard takes new spending, 0 where it is closed.", ("shard",)
    ),
    "holdfast_shard_backlog_entries": Metric(
        "gauge", "Entries in Redis that the journal lacks, as the API sees it.", ("shard",)
    ),
    "holdfast_shard_waiting_seconds": Metric(
        "gauge", "Settlement lag: how long the oldest of those has been waiting.", ("shard",)
    ),
    "holdfast_lease_new_seconds": Metric(
        "gauge", "What is left of the lease for new spending; 0: there is none.", ("shard",)
    ),
    "holdfast_lease_finish_seconds": Metric(
        "gauge",
        "What is left of the lease to finish authorised work; 0: there is none.",
        ("shard",),
    ),
    "holdfast_deliveries_pending": Metric(
        "gauge", "Events on their way to endpoints, as Postgres has them; 100,000 stand for more."
    ),
    "holdfast_deliveries_dead": Metric(
        "gauge", "Deliveries that were given up and wait for an operator; 100,000 stand for more."
    ),
    "holdfast_delivery_oldest_seconds": Metric(
        "gauge", "How long the oldest pending delivery has been on its way; 0: there is none."
    ),
    "holdfast_backlog_entries": Metric(
        "gauge", "Entries in the stream that are not settled.", ("shard",)
    ),
    "holdfast_settled_entries_total": Metric("counter", "Entries that the journal has taken."),
    "holdfast_settle_seconds": Metric(
        "histogram", "Time of one Postgres transaction that settles."
    ),
    "holdfast_settled_after_seconds": Metric(
        "histogram", "Age of the oldest entry of a shard's batch when it was settled."
    ),
    "holdfast_settle_fenced_total": Metric(
        "counter", "Batches that were discarded because the shard had moved on."
    ),
    "holdfast_quarantined_entries_total": Metric("counter", "Entries that Postgres rejected."),
    "holdfast_shard_doubts_total": Metric(
        "counter", "Times the settle loop asked vetting to decide about a shard."
    ),
    "holdfast_compensations_open": Metric(
        "gauge",
        "Compensations that are not applied: pending, or failed and left to an operator.",
        ("state",),
    ),
    "holdfast_compensation_retries_total": Metric(
        "counter", "Attempts to give what is owed that were not the first ones."
    ),
    "holdfast_trials_overridden_recent": Metric(
        "gauge", "Trials of the last 24 hours that signs of a paid plan ended; 3 are an alert."
    ),
}

# A call takes 1 to 5 ms; `settled` waits, a cold load or a store that is away take up to 2.5 s.
_BUCKETS_S: Final = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)

Severity = Literal["debug", "info", "warning", "error"]

# Every log event: how severe it is, and what it means.
EVENTS: Final[Mapping[str, tuple[Severity, str]]] = {
    "api_started": ("info", "an API process serves calls"),
    "api_stopped": ("info", "an API process has answered its last call"),
    "call_broke": ("error", "a call met a bug and was answered 500"),
    "call_unavailable": ("warning", "a call was answered 503; `store` says why"),
    "api_keys_not_checked": ("warning", "cached API keys could not be compared with Postgres"),
    "api_key_dropped": ("info", "a cached API key was revoked, or outlived its last check"),
    "api_key_made": ("info", "an operator made an API key"),
    "api_key_revoked": ("info", "an operator revoked an API key"),
    "worker_started": ("info", "a worker has connected to both stores and begins its services"),
    "worker_waits": ("warning", "a worker cannot reach a store yet and tries again"),
    "worker_stopped": ("info", "a worker has settled what was there and given its claims back"),
    "service_failed": ("error", "a service of the worker ended early and is started again"),
    "shard_not_read": ("warning", "Redis did not answer for the stream of a shard"),
    "shard_doubted": ("warning", "a shard is not what its row says; vetting decides"),
    "settle_fenced": ("warning", "a batch was discarded because the shard had moved on"),
    "entry_rejected": ("error", "Postgres rejected an entry; its account is in quarantine"),
    "account_frozen": ("warning", "an account in quarantine was frozen in Redis"),
    "quarantine_ended": ("warning", "an operator brought an account out of quarantine"),
    "generation_declared": ("info", "a vetter ended a generation of some shards and began another"),
    "shards_opened": ("info", "shards serve in a Redis that was compared with the journal"),
    "shard_rebuilt": ("warning", "a shard was thrown away in Redis and rebuilt from the journal"),
    "shard_stopped": ("error", "a shard serves nobody until an operator decides"),
    "node_not_ready": ("warning", "a Redis node cannot be vetted yet; `error` says why"),
    "vetting_failed": ("warning", "a vetting ended early; the next round starts over"),
    "proof_failed": ("warning", "Postgres did not take the proof of life; no new spending"),
    "lease_refused": ("warning", "Redis refused a lease; vetting looks at the shard"),
    "clock_insane": ("error", "a Redis clock is more than a second off; its shards are closed"),
    "clock_reset": ("warning", "an operator let a shard go on from an earlier time"),
    "sweep_failed": ("warning", "due holds or grants could not be expired; the next round tries"),
    "allowance_missed": (
        "warning",
        "periods of allowances ended before any worker looked; they gave nothing",
    ),
    "plan_not_followed": (
        "warning",
        "the limits of a plan could not be written into an account; the next round tries",
    ),
    "outbox_put_off": ("warning", "what is owed to an account could not be applied; tried again"),
    "outbox_failed": ("error", "what is owed to an account was refused; an operator must look"),
    "compensation_broke": ("error", "an attempt to give what is owed met a bug; it is tried again"),
    "compensation_failed": ("error", "what an account is owed was not given; an operator decides"),
    "trial_overridden": ("warning", "an account on trial showed signs of a paid plan: `signs`"),
    "endpoint_added": ("info", "an operator registered an endpoint for events"),
    "endpoint_removed": ("info", "an operator removed an endpoint"),
    "endpoint_enabled": ("info", "an operator lets events go to an endpoint again"),
    "endpoint_disabled": ("warning", "an endpoint gets no more events: `why` says who wanted that"),
    "endpoint_rotated": ("info", "an endpoint was given a new secret"),
    "deliveries_failed": ("warning", "events could not be sent, or noted; the next round tries"),
    "delivery_dead": ("warning", "an event did not reach an endpoint, and is not tried again"),
    "delivery_resent": ("info", "an operator sends deliveries again that were over"),
    "upkeep_failed": ("warning", "a stream was not trimmed or an account not evicted"),
}

# ── logs ─────────────────────────────────────────────────────────────────────────────────────────

_TOKEN = re.compile(r"hf_[a-z0-9]{12}_[A-Za-z0-9_-]+|whsec_[A-Za-z0-9+/=]+")
_PASSWORD_IN_URL = re.compile(r"://[^/@\s]*@")
_SECRET_NAMES: Final = frozenset({"authorization", "password", "secret", "token", "digest"})
_BALANCE_NAMES: Final = frozenset({"available", "held", "debt", "balance"})


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _PASSWORD_IN_URL.sub("://***@", _TOKEN.sub("***", value))
    if isinstance(value, Mapping):
        return {name: _clean_field(name, inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner) for inner in value]
    return value


def _clean_field(name: Any, value: Any) -> Any:
    if name in _SECRET_NAMES or name in _BALANCE_NAMES:
        return "***"
    return _clean(value)


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """No secret and no balance reaches a log, whatever a caller of `log` passes."""
    return {name: _clean_field(name, value) for name, value in event.items()}


class _Stderr:
    """Whatever stderr is now. A line that cannot be written must not break what it tells about."""

    def msg(self, line: bytes) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(line.decode() + "\n")

    debug = info = warning = error = msg


def configure_logs(level: Severity) -> None:
    """JSON lines on stderr, from `level` on."""
    levels = {"debug": 10, "info": 20, "warning": 30, "error": 40}
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redact,
            structlog.processors.JSONRenderer(serializer=orjson.dumps, default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(levels[level]),
        logger_factory=lambda *_: _Stderr(),
        cache_logger_on_first_use=False,  # a line is rare, and the level may be set after the first
    )


_logger: FilteringBoundLogger = structlog.get_logger()


def log(event: str, **values: Any) -> None:
    """Log one of EVENTS. Raises KeyError for another: the table is the whole list."""
    severity, _meaning = EVENTS[event]
    if not structlog.is_configured():  # a command that has configured nothing
        configure_logs("info")
    getattr(_logger, severity)(event, **values)


class Sampler:
    """Lets through one log line of each kind every `interval_s`, with the number it kept back."""

    def __init__(
        self, interval_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval_s = interval_s
        self._clock = clock
        # One place for each (event, reason); reasons are words of our own, a dozen at most.
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def log(self, event: str, reason: str, **values: Any) -> None:
        """`log(event, …)`, unless the same event and reason were logged less than that ago."""
        now = self._clock()
        until, skipped = self._seen.get((event, reason), (now, 0))
        if now < until:
            self._seen[event, reason] = (until, skipped + 1)
            return
        self._seen[event, reason] = (now + self._interval_s, 0)
        log(event, **values, skipped=skipped)


# ── metrics ──────────────────────────────────────────────────────────────────────────────────────

Reading = tuple[str, tuple[str, ...], float]
"""Name of a gauge, the values of its labels, and its value."""

# Files of workers that have ended are kept, for a counter must not go back; this many of them,
# which is hundreds of restarts: a service that restarts more often has other troubles.
_MAX_DEAD_FILES = 512


class CallTimer:
    """The histogram of one kind of call, with a child ready for every result seen so far."""

    __slots__ = ("_children", "_histogram", "_name")

    def __init__(self, histogram: Histogram, name: str) -> None:
        self._histogram = histogram
        self._name = name
        self._children: dict[str, Callable[[float], None]] = {}

    def observe(self, result: str, seconds: float) -> None:
        """Count one call. `result` is of a fixed set: ok, replay, or a problem's code."""
        child = self._children.get(result)
        if child is None:
            child = self._histogram.labels(self._name, result).observe
            self._children[result] = child
        child(seconds)


class Telemetry:
    """The metrics of one process, or with a shared directory those of all workers."""

    def __init__(self, directory: Path | None) -> None:
        _choose_values(directory)
        from prometheus_client import CollectorRegistry, Counter, Histogram  # noqa: PLC0415

        self.directory = directory
        self._registry = CollectorRegistry()
        calls = METRICS["holdfast_call_seconds"]
        self._calls = Histogram(
            "holdfast_call_seconds",
            calls.meaning,
            calls.labels,
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._wire: dict[str, Counter] = {
            name.removeprefix("holdfast_wire_").removesuffix("_total"): Counter(
                name, metric.meaning, registry=self._registry
            )
            for name, metric in METRICS.items()
            if name.startswith("holdfast_wire_")
        }
        self._counted: dict[str, int] = dict.fromkeys(self._wire, 0)
        name = "holdfast_compensation_retries_total"
        self.compensation_retries = Counter(name, METRICS[name].meaning, registry=self._registry)

    @classmethod
    def open(cls, config: Config) -> Telemetry:
        """Configure logs, and metrics in `config.metrics_dir` if there is one."""
        configure_logs(config.log_level)
        return cls(config.metrics_dir)

    def timer(self, call: str) -> CallTimer:
        """The timer of one kind of call; to be made once and kept."""
        return CallTimer(self._calls, call)

    def count_traffic(self, traffic: Traffic) -> None:
        """Bring the wire's counters up to `traffic`, which only ever grows."""
        for field in fields(traffic):
            total: int = getattr(traffic, field.name)
            self._wire[field.name].inc(total - self._counted[field.name])
            self._counted[field.name] = total

    def exposition(self, gauges: Iterable[Reading] = ()) -> tuple[bytes, str]:
        """The metrics as text, with `gauges` of METRICS as just read, and its media type."""
        from prometheus_client import CollectorRegistry, exposition, multiprocess  # noqa: PLC0415

        registry = self._registry
        if self.directory is not None:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry, path=str(self.directory))  # type: ignore[no-untyped-call]
        text = exposition.generate_latest(registry) + exposition.generate_latest(
            _gauge_registry(gauges)
        )
        return text, exposition.CONTENT_TYPE_LATEST


def _gauge_registry(readings: Iterable[Reading]) -> CollectorRegistry:
    """Gauges that are read for one exposition, and not kept."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

    families: dict[str, GaugeMetricFamily] = {}
    for name, labels, value in readings:
        metric = METRICS[name]
        if name not in families:
            families[name] = GaugeMetricFamily(name, metric.meaning, labels=metric.labels)
        families[name].add_metric(labels, value)

    class Families:
        def collect(self) -> Iterable[GaugeMetricFamily]:
            return families.values()

    registry = CollectorRegistry()
    registry.register(cast(Any, Families()))
    return registry


def _choose_values(directory: Path | None) -> None:
    """Where prometheus_client keeps numbers: in this process, or in files of `directory`.

    It decides that by an environment variable when it is first imported; what was imported before
    us must not decide for us.
    """
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
        _remove_old_files(directory)
    else:
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    from prometheus_client import values  # noqa: PLC0415

    values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]


def _remove_old_files(directory: Path) -> None:
    """Remove the oldest files of workers that have ended, beyond the number that is kept."""
    dead = [path for path in directory.glob("*_*.db") if not _alive(path)]
    dead.sort(key=lambda path: path.stat().st_mtime)
    for path in dead[: max(len(dead) - _MAX_DEAD_FILES, 0)]:
        path.unlink(missing_ok=True)


def _alive(path: Path) -> bool:
    """Whether the process that writes `<kind>_<pid>.db` runs."""
    pid = path.stem.rpartition("_")[2]
    if not pid.isdigit():
        return True  # not a file of ours to judge
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
