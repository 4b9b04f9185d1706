"""What the ledger answers. Amounts are microcredits, times milliseconds since 1970 UTC."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

MAX_AMOUNT = 9 * 10**15
MICROCREDITS = 1_000_000

HoldState = Literal["held", "committed", "released", "expired"]
OnShortfall = Literal["reject", "cap", "debt"]
Durability = Literal["memory", "local", "settled", "unknown"]
Status = Literal["active", "frozen", "closed"]


@dataclass(slots=True)
class Receipt:
    """Where the entry of an answer stands in its shard. `chain` is empty for a replay or a read."""

    shard: int
    seq: int
    chain: str
    version: int


@dataclass(slots=True)
class Hold:
    """A hold, with the balances of its account after the call that answers it."""

    id: str
    account: str
    member: str | None
    state: HoldState
    amount: int
    committed: int
    remaining: int
    uncollected: int
    late: bool
    created_ms: int
    deadline_ms: int
    available: int
    held: int
    metadata: dict[str, Any] | None
    replayed: bool
    receipt: Receipt
    durability: Durability = "memory"
    stale: bool = False


@dataclass(slots=True)
class Movement:
    """A charge, grant, adjustment or refund: over when it has happened."""

    kind: Literal["charge", "grant", "adjust", "refund"]
    id: str
    account: str
    amount: int
    uncollected: int
    created_ms: int
    available: int
    held: int
    of: str | None
    member: str | None
    source: str | None
    metadata: dict[str, Any] | None
    replayed: bool
    receipt: Receipt
    durability: Durability = "memory"


@dataclass(slots=True)
class Grant:
    """An expiring grant that still has something."""

    id: str
    remaining: int
    priority: int
    expires_ms: int


@dataclass(slots=True)
class Limits:
    """Limits in microcredits (max_open_holds: a count; models: names). None is no limit."""

    daily_limit: int | None = None
    monthly_limit: int | None = None
    max_hold: int | None = None
    max_open_holds: int | None = None
    models: list[str] | None = None
    """Those that reserves and charges may name; then each must name one."""


@dataclass(slots=True)
class Account:
    """An account as stored; `stale` where something due could not be expired before the read."""

    account: str
    status: Status
    available: int
    held: int
    spent: int
    granted: int
    refunded: int
    forfeited: int
    debt: int
    overdraft_limit: int
    limits: Limits
    low_balance: int | None
    plan: str | None
    metadata: dict[str, Any] | None
    used_today: int
    used_this_month: int
    open_holds: int
    version: int
    grants: list[Grant] = field(default_factory=list)
    stale: bool = False
    created: bool = False
    receipt: Receipt | None = None
    durability: Durability = "memory"


@dataclass(slots=True)
class Member:
    """Limits and usage of a member, in microcredits."""

    account: str
    member: str
    daily_limit: int | None
    monthly_limit: int | None
    max_hold: int | None
    used_today: int
    used_this_month: int
    created: bool = False
    stale: bool = False
    receipt: Receipt | None = None
    durability: Durability = "memory"


@dataclass(slots=True)
class Context:
    """Who asks, for the entry: request id, actor (`key:<id>`, `worker`, `cli`), free words.

    `address`, where the call came from, is told for what the audit has.
    """

    request_id: str
    actor: str
    traceparent: str | None = None
    description: str | None = None
    reason: str | None = None
    metadata: dict[str, Any] | None = None
    address: str | None = None
