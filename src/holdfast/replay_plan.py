"""What a replay is going to do, worked out before it begins: accounts, estimates, costs.

One seed and one trace give one plan. Nothing here speaks to the service.
"""

from __future__ import annotations

import math
import random
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal

from holdfast.trace import Trace, TraceRow

__all__ = [
    "OVER_ESTIMATE_SHARE",
    "PlannedCall",
    "ReplayOptions",
    "ReplayPlan",
    "ZipfDraw",
    "expected_output_tokens",
    "parse_speed",
    "plan_replay",
]

OVER_ESTIMATE_SHARE = 0.12
"""Share of calls that cost more than was estimated, as a production gateway saw it (12.2 %)."""

SYNTHETIC_ROWS = 10_000
"""Rows of a trace that is drawn, where no limit is given: half an hour of the real one."""

# 9·10^15, the contract's bound on a balance, leaves a replay's accounts far from it.
_MAX_GRANT = 9 * 10**15
# One thousand times the price of the dearest tokens sold: keeps 10^7 tokens below 10^13.
_MAX_PRICE = 1_000_000
_SPEED = re.compile(r"(\d+(?:\.\d+)?)[x×]")


@dataclass(frozen=True)
class ReplayOptions:
    """How a trace is replayed. Raises ValueError for values outside their ranges.

    Prices are microcredits per token; the defaults are those of a small model ($0.15 and $0.60 a
    million tokens, at $0.001 a credit).
    """

    url: str = "http://127.0.0.1:8080"
    api_key: str = ""
    file: Path | None = None
    """The trace; None draws a synthetic one."""
    limit: int | None = None
    """At most so many rows of the file; the number of rows of a synthetic trace."""
    seed: int = 1
    accounts: int = 100
    zipf_exponent: float = 1.1
    """Account k (1, 2, 3, ...) gets a share of the calls that goes with k to minus this power."""
    speed: str = "max"
    """`real`, `max`, or so many times as fast: `2x`, `10x`, `0.5x`."""
    concurrency: int = 64
    """Calls under way at once, a connection each."""
    input_price: int = 150
    output_price: int = 600
    estimated_output_tokens: int | None = None
    """The output every estimate counts on; None: what 88 % of the trace's calls stay within."""
    failure_share: float = 0.02
    """Share of calls that fail, and whose hold is released."""
    ttl_seconds: int = 900
    on_shortfall: Literal["cap", "reject", "debt"] = "cap"
    grant: int | None = None
    """Microcredits put into each account; None: what its calls can need, so that none is denied."""
    durability: Literal["memory", "local", "settled"] | None = None
    timeout_s: float = 10.0
    """How long one answer may take."""
    patience_s: float = 60.0
    """How long a request without a final answer is repeated, before it is given up as unknown."""
    journal_wait_s: float = 30.0
    """How long the journal may take to catch up before the comparison."""

    def __post_init__(self) -> None:
        ranges: tuple[tuple[str, float | None, float, float], ...] = (
            ("limit", self.limit, 1, math.inf),
            ("accounts", self.accounts, 1, 100_000),
            ("zipf_exponent", self.zipf_exponent, 0, 10),
            ("concurrency", self.concurrency, 1, 1_000),
            ("input_price", self.input_price, 0, _MAX_PRICE),
            ("output_price", self.output_price, 0, _MAX_PRICE),
            ("estimated_output_tokens", self.estimated_output_tokens, 0, 10_000_000),
            ("failure_share", self.failure_share, 0, 1),
            ("ttl_seconds", self.ttl_seconds, 1, 86_400),
            ("grant", self.grant, 1, _MAX_GRANT),
            ("timeout_s", self.timeout_s, 0.1, 600),
            ("patience_s", self.patience_s, 0, 3_600),
            ("journal_wait_s", self.journal_wait_s, 0, 3_600),
        )
        for name, value, low, high in ranges:
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} is {value:,}: it goes from {low:,} to {high:,}")
        parse_speed(self.speed)


def parse_speed(text: str) -> float:
    """How many times as fast as it was recorded; infinity for `max`. Raises ValueError."""
    if text == "real":
        return 1.0
    if text == "max":
        return math.inf
    times = _SPEED.fullmatch(text)
    if times is None or not 0.001 <= float(times[1]) <= 1_000_000:
        raise ValueError(f"speed is {text!r}: real, max, or so many times as fast, like 2x or 0.5x")
    return float(times[1])


class ZipfDraw:
    """Draws 0 to n-1, the k-th likeliest with a weight of k^-exponent; one seed, one sequence."""

    def __init__(self, n: int, exponent: float, *, seed: str) -> None:
        self._bounds = list(accumulate(rank**-exponent for rank in range(1, n + 1)))
        self._random = random.Random(seed)

    def draw(self) -> int:
        """The next number."""
        point = self._random.random() * self._bounds[-1]
        return min(bisect_right(self._bounds, point), len(self._bounds) - 1)


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """One row of the trace as a call: whose, when, what is reserved and what it will cost."""

    number: int
    account: int
    at_s: float
    estimate: int
    cost: int
    fails: bool


@dataclass(frozen=True)
class ReplayPlan:
    """All calls, and what is granted to each account before them, in microcredits."""

    source: str
    expected_output_tokens: int
    calls: tuple[PlannedCall, ...]
    grants: tuple[int, ...]


def expected_output_tokens(rows: Sequence[TraceRow]) -> int:
    """The output that at most OVER_ESTIMATE_SHARE of the calls exceed.

    A backend knows its past traffic, not this call's answer: it reserves for the exact input and
    for an output that most answers stay within. Taken from the trace itself, the share of commits
    above their estimate comes out just below the one that was seen in production.
    """
    lengths = sorted(row.generated_tokens for row in rows)
    return lengths[math.ceil(len(lengths) * (1 - OVER_ESTIMATE_SHARE)) - 1]


def plan_replay(options: ReplayOptions, trace: Trace) -> ReplayPlan:
    """Turn each row of the trace into a call of an account."""
    output_tokens = options.estimated_output_tokens
    if output_tokens is None:
        output_tokens = expected_output_tokens(trace.rows)
    draw = ZipfDraw(options.accounts, options.zipf_exponent, seed=f"accounts {options.seed}")
    failures = random.Random(f"failures {options.seed}")
    calls = []
    needs = [0] * options.accounts
    for number, row in enumerate(trace.rows):
        given = row.context_tokens * options.input_price
        call = PlannedCall(
            number=number,
            account=draw.draw(),
            at_s=row.at_ns / 1e9,
            # A hold is of at least one microcredit, also where tokens cost nothing.
            estimate=max(1, given + output_tokens * options.output_price),
            cost=given + row.generated_tokens * options.output_price,
            fails=failures.random() < options.failure_share,
        )
        calls.append(call)
        needs[call.account] += max(call.estimate, call.cost)
    # Whatever the order and the overlap, no account can need more than all its calls at their most.
    grants = [max(1, min(each, _MAX_GRANT)) for each in needs]
    if options.grant is not None:
        grants = [options.grant] * options.accounts
    return ReplayPlan(trace.source, output_tokens, tuple(calls), tuple(grants))
