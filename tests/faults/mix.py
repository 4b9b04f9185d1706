"""What a load does next: kinds by weight, amounts by size, holds by what the account has open."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from tests.faults.history import Kind, Operation

__all__ = ["Draws", "Mix", "Plan", "Purse"]

# What is remembered of an account to go on with; what is forgotten is left to expire.
_OPEN_MAX = 64
_TAKEN_MAX = 64


@dataclass(frozen=True)
class Mix:
    """What the operations are, by weight, and how large. Amounts in microcredits."""

    weights: tuple[tuple[str, int], ...] = (
        *(("reserve", 38), ("commit", 22), ("partial", 6), ("over", 6), ("release", 5)),
        *(("extend", 7), ("charge", 8), ("refund", 4), ("grant", 2), ("late", 2)),
    )
    largest: int = 10_000
    """The largest amount; most are far smaller (their logarithm is even)."""
    funds: int = 20_000
    """What an account begins with, and what it is granted when a tenth of that is left."""
    zipf_exponent: float = 1.0
    ttl_s: int = 600
    short_ttl_share: float = 0.04
    """Of the holds, how many expire within a second or two, to be committed late or not at all."""
    expiring_share: float = 0.2
    """Of the grants; half of these within seconds."""
    race_share: float = 0.05
    """Of the calls on a hold, how many leave it to another caller to meet it at the same time."""
    overdraft_share: float = 0.25
    """Of the accounts: they may overdraw by a tenth of their funds."""


class Plan(NamedTuple):
    """The next operation of an account."""

    kind: Kind
    hold: str | None
    sent: dict[str, Any]

    @property
    def amount(self) -> int | None:
        """What it asks for."""
        amount: int | None = self.sent.get("amount", self.sent.get("add_amount"))
        return amount


@dataclass(slots=True)
class _Hold:
    """A hold that was made, as its last answer had it."""

    id: str
    remaining: int
    expires_at: float
    """Seconds since 1970, near enough to guess when it is over."""


@dataclass(slots=True)
class Purse:
    """An account as the answers of a load have it: what the next operation is drawn by."""

    name: str
    available: int = 0
    open: list[_Hold] = field(default_factory=list)
    short: deque[_Hold] = field(default_factory=lambda: deque(maxlen=_OPEN_MAX))
    """Holds that expire soon, the oldest first."""
    taken: deque[tuple[str, int]] = field(default_factory=lambda: deque(maxlen=_TAKEN_MAX))
    """What was taken, and how much of it, to be refunded in part."""

    def learn(self, operation: Operation, ttl_s: int, now: float) -> None:
        """Take note of what an operation was answered; `ttl_s` is how long a hold lasts that is
        to be gone on with."""
        answer = operation.answer
        self.available = answer["available"]
        if operation.kind == "charge":
            self._took(operation.key, answer["amount"])
        elif operation.kind in ("grant", "refund") or operation.hold is None:
            return
        elif answer["state"] == "held":
            lasts_s = operation.sent.get("ttl_seconds", ttl_s)
            hold = _Hold(operation.hold, answer["remaining"], now + lasts_s)
            if lasts_s < ttl_s:
                self.short.append(hold)
            elif len(self.open) < _OPEN_MAX:
                self.open.append(hold)
        else:
            self._took(operation.hold, answer["committed"])

    def _took(self, what: str, amount: int) -> None:
        if amount:
            self.taken.append((what, amount))


class Draws:
    """Draws one caller's operations; one seed, one sequence for the same answers."""

    def __init__(self, mix: Mix, rng: random.Random) -> None:
        self._mix = mix
        self._rng = rng
        self._names, self._weights = zip(*mix.weights, strict=True)
        self._by_name: dict[str, Callable[[Purse, float], Plan | None]] = {
            name: getattr(self, f"_{name}") for name in self._names
        }

    def next(self, purse: Purse, now: float) -> Plan:
        """What to do next with an account; `now` in seconds since 1970."""
        (name,) = self._rng.choices(self._names, self._weights)
        if purse.available < self._mix.funds // 10 and self._rng.random() < 0.3:
            return self._grant(purse, now)
        return self._by_name[name](purse, now) or self._reserve(purse, now)

    # Each answers None where the account has nothing to do it to.

    def _grant(self, purse: Purse, now: float) -> Plan:
        sent: dict[str, Any] = {"amount": self._mix.funds, "source": "promo"}
        if self._rng.random() < self._mix.expiring_share:
            lives_s = self._rng.choice((self._rng.randint(2, 5), 86_400))
            at = datetime.fromtimestamp(int(now), UTC) + timedelta(seconds=lives_s)
            sent |= {"expires_at": f"{at:%Y-%m-%dT%H:%M:%SZ}", "priority": self._rng.randint(0, 2)}
        return Plan("grant", None, sent)

    def _reserve(self, purse: Purse, now: float) -> Plan:
        sent: dict[str, Any] = {"amount": self._amount(self._mix.largest)}
        if self._rng.random() < 0.1:
            sent["min_amount"] = self._rng.randint(1, sent["amount"])
        short = self._rng.random() < self._mix.short_ttl_share
        sent["ttl_seconds"] = self._rng.randint(1, 2) if short else self._mix.ttl_s
        return Plan("reserve", None, sent)

    def _commit(self, purse: Purse, now: float) -> Plan | None:
        if (hold := self._pick(purse)) is None:
            return None
        if self._rng.random() < 0.4:
            return Plan("commit", hold.id, {})
        return Plan("commit", hold.id, {"amount": self._rng.randint(0, hold.remaining)})

    def _partial(self, purse: Purse, now: float) -> Plan | None:
        if (hold := self._pick(purse)) is None:
            return None
        return Plan("partial", hold.id, {"amount": self._amount(hold.remaining), "final": False})

    def _over(self, purse: Purse, now: float) -> Plan | None:
        if (hold := self._pick(purse)) is None:
            return None
        # Now and then more than the account can have left.
        extra = self._amount(self._mix.largest) + (self._rng.random() < 0.3) * self._mix.funds
        sent = {"amount": hold.remaining + extra, **self._shortfall()}
        return Plan("commit", hold.id, sent)

    def _late(self, purse: Purse, now: float) -> Plan | None:
        # From a moment before the deadline, so that some meet it as it passes.
        if not purse.short or purse.short[0].expires_at > now + 0.02:
            return None
        hold = purse.short.popleft()
        if self._rng.random() < 0.2:
            return Plan("release", hold.id, {})
        return Plan("commit", hold.id, {"amount": hold.remaining, **self._shortfall()})

    def _release(self, purse: Purse, now: float) -> Plan | None:
        hold = self._pick(purse)
        return None if hold is None else Plan("release", hold.id, {})

    def _extend(self, purse: Purse, now: float) -> Plan | None:
        if (hold := self._pick(purse)) is None:
            return None
        ttl = {"ttl_seconds": self._mix.ttl_s + self._rng.randint(0, 60)}
        add = {"add_amount": self._amount(self._mix.largest)}
        return Plan("extend", hold.id, self._rng.choice((ttl, add, ttl | add)))

    def _charge(self, purse: Purse, now: float) -> Plan:
        return Plan("charge", None, {"amount": self._amount(), **self._shortfall()})

    def _refund(self, purse: Purse, now: float) -> Plan | None:
        if not purse.taken:
            return None
        what, taken = self._rng.choice(purse.taken)
        if self._rng.random() < 0.2:
            return Plan("refund", what, {"of": what})  # all that is left
        return Plan("refund", what, {"of": what, "amount": self._rng.randint(1, taken)})

    # Of which these are made

    def _amount(self, largest: int | None = None) -> int:
        largest = max(largest or self._mix.largest, 1)
        return max(1, round(math.exp(self._rng.random() * math.log(largest))))

    def _shortfall(self) -> dict[str, str]:
        words = self._rng.choice(("", "reject", "cap", "debt"))
        return {"on_shortfall": words} if words else {}

    def _pick(self, purse: Purse) -> _Hold | None:
        """An open hold, which nobody else gets meanwhile, but for a few that somebody may."""
        if not purse.open:
            return None
        place = self._rng.randrange(len(purse.open))
        hold = purse.open[place]
        if self._rng.random() >= self._mix.race_share:
            purse.open[place] = purse.open[-1]
            purse.open.pop()
        return hold
