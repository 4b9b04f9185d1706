"""The mix of calls that benchmarks use: what a real gateway for language models saw.

From a public gateway's notes on its production: cost of a call at p50/p90/p99/p99.9 is
9 / 129 / 10,461 / 161,836 micro-dollars, taken here as microcredits; 12.2 % of the calls cost more
than was estimated, and 96 % of that excess is in 0.7 % of the calls.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from holdfast.replay_plan import ZipfDraw

__all__ = ["Mix", "MixCall", "cost_at", "mixed_calls"]

# Share of calls that cost at most so much. The ends are ours: the cheapest call costs something,
# and the dearest six times what one in a thousand does.
_COSTS = ((0.0, 1), (0.5, 9), (0.9, 129), (0.99, 10_461), (0.999, 161_836), (1.0, 1_000_000))

_OVER_SHARE = 0.122
_BIG_SHARE = 0.007
_BIG_MONEY = 0.96


@dataclass(frozen=True)
class Mix:
    """Which calls a load is made of. One seed, one sequence of `calls` calls, gone round in.

    `grant` microcredits go into each account; by default more than any run can spend.
    """

    accounts: int = 1_000
    zipf_exponent: float = 1.1
    seed: int = 1
    calls: int = 16_384
    grant: int = 10**12
    ttl_seconds: int = 900

    def __post_init__(self) -> None:
        # 0.7 % of fewer calls is no number to speak of.
        for name, value, low, high in (
            ("accounts", self.accounts, 1, 100_000),
            ("calls", self.calls, 2_000, 1_000_000),
            ("grant", self.grant, 1, 9 * 10**15),
            ("ttl_seconds", self.ttl_seconds, 1, 86_400),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} is {value:,}: it goes from {low:,} to {high:,}")


class MixCall(NamedTuple):
    """A call of the mix: number of its account, microcredits reserved and committed."""

    account: int
    estimate: int
    cost: int


def cost_at(share: float) -> int:
    """The cost, in microcredits, that `share` (0 to 1) of the calls stay within.

    Between the published points the logarithm goes straight.
    """
    for (low, low_cost), (high, high_cost) in pairwise(_COSTS):
        if share <= high:
            way = (share - low) / (high - low)
            between = math.log(low_cost) + way * (math.log(high_cost) - math.log(low_cost))
            return max(1, round(math.exp(between)))
    raise ValueError(f"a share is from 0 to 1, not {share}")


def mixed_calls(mix: Mix) -> list[MixCall]:
    """The calls of the mix, in the order in which they are made."""
    draw = random.Random(f"mix {mix.seed}")
    # Costs at even steps of the distribution, so that every run has exactly its percentiles.
    costs = [cost_at((number + 0.5) / mix.calls) for number in range(mix.calls)]
    excess = _excess(costs, draw)
    accounts = ZipfDraw(mix.accounts, mix.zipf_exponent, seed=f"mix accounts {mix.seed}")
    order = list(range(mix.calls))
    draw.shuffle(order)
    calls = []
    for number in order:
        cost = costs[number]
        if number in excess:
            estimate = cost - excess[number]
        else:
            estimate = math.ceil(cost * draw.uniform(1.1, 2.0))
        calls.append(MixCall(accounts.draw(), estimate, cost))
    return calls


def _excess(costs: list[int], draw: random.Random) -> dict[int, int]:
    """For the calls that cost more than estimated, by how much; `costs` are ascending.

    The few big ones are drawn from the dearest calls. The many small ones are drawn from the
    others and are over by one common fraction of their cost, chosen so that their sum is right.
    """
    n = len(costs)
    big_count = round(n * _BIG_SHARE)
    # Twice as many as are wanted, so that not every dear call was underestimated.
    dear = range(n - 2 * big_count, n)
    big = {
        each: round(costs[each] * draw.uniform(0.3, 0.8)) for each in draw.sample(dear, big_count)
    }
    small_money = sum(big.values()) * (1 - _BIG_MONEY) / _BIG_MONEY
    # A cost of one microcredit has no smaller estimate.
    cheap = [each for each in range(dear.start) if costs[each] > 1]
    small = draw.sample(cheap, round(n * _OVER_SHARE) - big_count)

    def split(fraction: float) -> dict[int, int]:
        return {each: max(1, min(costs[each] - 1, round(costs[each] * fraction))) for each in small}

    low, high = 0.0, 1.0
    # Halved 30 times, the fraction is exact beyond what whole microcredits can tell.
    for _ in range(30):
        middle = (low + high) / 2
        if sum(split(middle).values()) < small_money:
            low = middle
        else:
            high = middle
    return big | split(high)
