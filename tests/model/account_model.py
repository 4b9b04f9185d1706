"""The account as the design describes it, in plain Python: what the scripts are compared with.

Written from the rules, not from the scripts: lists and integers, no Redis, no idea of entries.
Every method answers a status word and changes nothing when it refuses.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_AMOUNT = 9 * 10**15
MAX_GRANTS = 16


@dataclass
class ModelGrant:
    id: str
    expires: int
    priority: int
    remaining: int


@dataclass
class ModelHold:
    id: str
    amount: int
    remaining: int
    deadline: int
    draws: list[ModelGrant]
    """What of `remaining` came from which grant, in order; the rest is base or overdraft."""
    state: str = "held"
    committed: int = 0
    refunded: int = 0
    uncollected: int = 0
    late: bool = False


@dataclass
class ModelAccount:
    """Money of one account. Times in milliseconds, amounts in microcredits."""

    overdraft_limit: int = 0
    now: int = 0
    base: int = 0
    debt: int = 0
    granted: int = 0
    refunded: int = 0
    spent: int = 0
    forfeited: int = 0
    grants: list[ModelGrant] = field(default_factory=list)
    holds: dict[str, ModelHold] = field(default_factory=dict)

    @property
    def available(self) -> int:
        return self.base + sum(g.remaining for g in self.grants) - self.debt

    @property
    def held(self) -> int:
        return sum(h.remaining for h in self.holds.values())

    @property
    def room(self) -> int:
        return self.available + self.overdraft_limit

    # ── where credits come from and go to ────────────────────────────────────────────────────────

    def _live(self) -> list[ModelGrant]:
        self.grants = [g for g in self.grants if g.remaining > 0]
        self.grants.sort(key=lambda g: (g.expires, g.priority, g.id))
        return self.grants

    def _draw(self, amount: int) -> list[ModelGrant]:
        draws = []
        for grant in self._live():
            part = min(grant.remaining, amount)
            if part:
                grant.remaining -= part
                amount -= part
                draws.append(ModelGrant(grant.id, grant.expires, grant.priority, part))
        part = min(self.base, amount)
        self.base -= part
        self.debt += amount - part
        self._live()
        return draws

    def _pay_debt(self, amount: int) -> int:
        paid = min(self.debt, amount)
        self.debt -= paid
        return amount - paid

    def _to_grant(self, id: str, expires: int, priority: int, amount: int) -> None:
        for grant in self._live():
            if grant.id == id:
                grant.remaining += amount
                return
        if len(self.grants) < MAX_GRANTS:
            self.grants.append(ModelGrant(id, expires, priority, amount))
            return
        later = next((g for g in self.grants if g.expires >= expires), None)
        if later is None:
            self.base += amount
        else:
            later.remaining += amount

    def _give_back(self, draws: list[ModelGrant], amount: int) -> None:
        rest = self._pay_debt(amount)
        paid = amount - rest
        for draw in draws:
            part = max(draw.remaining - paid, 0)
            paid = max(paid - draw.remaining, 0)
            if not part:
                continue
            rest -= part
            if draw.expires <= self.now:
                self.forfeited += part
            else:
                self._to_grant(draw.id, draw.expires, draw.priority, part)
        draws.clear()
        self.base += rest

    @staticmethod
    def _take_front(draws: list[ModelGrant], amount: int) -> None:
        for draw in draws:
            part = min(draw.remaining, amount)
            draw.remaining -= part
            amount -= part

    # ── transitions ──────────────────────────────────────────────────────────────────────────────

    def expire_due(self) -> None:
        due = [h for h in self.holds.values() if h.state == "held" and h.deadline <= self.now]
        for hold in sorted(due, key=lambda h: (h.deadline, h.id)):
            rest, hold.remaining, hold.state = hold.remaining, 0, "expired"
            self._give_back(hold.draws, rest)
        for grant in self.grants:
            if grant.expires <= self.now:
                self.forfeited += grant.remaining
                grant.remaining = 0
        self._live()

    def grant(self, id: str, amount: int, expires: int | None, priority: int) -> str:
        if self.available + self.held + amount > MAX_AMOUNT:
            return "amount_limit"
        if expires is not None and expires <= self.now:
            return "invalid_request"
        self.granted += amount
        rest = self._pay_debt(amount)
        if expires is None:
            self.base += rest
        elif rest:
            self._to_grant(id, expires, priority, rest)
        return "ok"

    def adjust(self, amount: int) -> str:
        if amount < 0:
            if self.available < -amount:
                return "insufficient_credits"
            self._draw(-amount)
        elif self.available + self.held + amount > MAX_AMOUNT:
            return "amount_limit"
        else:
            self.base += self._pay_debt(amount)
        self.granted += amount
        return "ok"

    def reserve(self, id: str, amount: int, min_amount: int | None, ttl_ms: int) -> str:
        if self.room < amount:
            if self.room < (min_amount or amount):
                return "insufficient_credits"
            amount = self.room
        draws = self._draw(amount)
        self.holds[id] = ModelHold(id, amount, amount, self.now + ttl_ms, draws)
        return "ok"

    def extend(self, id: str, ttl_ms: int | None, add: int | None) -> str:
        hold = self.holds[id]
        if hold.state != "held":
            return f"hold_{hold.state}"
        if add is not None:
            if self.room < add:
                return "insufficient_credits"
            hold.draws += self._draw(add)
            hold.amount += add
            hold.remaining += add
        if ttl_ms is not None:
            hold.deadline = max(hold.deadline, self.now + ttl_ms)
        return "ok"

    def commit(self, id: str, amount: int | None, on_shortfall: str, final: bool) -> str:
        hold = self.holds[id]
        if hold.state in ("committed", "released"):
            return f"hold_{hold.state}"
        late = hold.state == "expired"
        if amount is None:
            amount = max(hold.amount - hold.committed, 0) if late else hold.remaining
        in_hold = min(amount, hold.remaining)
        extra = amount - in_hold
        short = max(extra - max(self.room, 0), 0)
        if short and on_shortfall == "reject":
            return "commit_exceeds_funds"
        if short and on_shortfall == "cap":
            extra -= short
            hold.uncollected += short
        self._take_front(hold.draws, in_hold)
        hold.remaining -= in_hold
        self._draw(extra)
        hold.committed += in_hold + extra
        self.spent += in_hold + extra
        hold.late = hold.late or late
        if final:
            rest, hold.remaining = hold.remaining, 0
            self._give_back(hold.draws, rest)
            hold.state = "committed"
        return "ok"

    def release(self, id: str) -> str:
        hold = self.holds[id]
        if hold.state == "expired":
            return "ok"
        if hold.state != "held":
            return f"hold_{hold.state}"
        rest, hold.remaining, hold.state = hold.remaining, 0, "released"
        self._give_back(hold.draws, rest)
        return "ok"

    def charge(self, amount: int, on_shortfall: str) -> tuple[str, int]:
        """The status, and what was taken."""
        short = max(amount - max(self.room, 0), 0)
        if short and on_shortfall == "reject":
            return "insufficient_credits", 0
        if short and on_shortfall == "cap":
            amount -= short
        self._draw(amount)
        self.spent += amount
        return "ok", amount

    def refund(self, id: str, amount: int | None) -> str:
        hold = self.holds[id]
        if hold.state == "held":
            return "hold_open"
        left = hold.committed - hold.refunded
        amount = left if amount is None else amount
        if not 1 <= amount <= left:
            return "refund_exceeds"
        if self.available + self.held + amount > MAX_AMOUNT:
            return "amount_limit"
        hold.refunded += amount
        self.refunded += amount
        self.base += self._pay_debt(amount)
        return "ok"
