"""Purchases: payments that were turned into credits, each once, whoever tells of it how often.

    POST …/grants {payment} ─▶ one INSERT decides ─▶ outbox ─▶ Redis ─▶ 201 applied, 200 replay
                                     └──▶ 409: the same payment with another content; audited

The payment is the identity: provider and its id for the payment, whatever Idempotency-Key came with
it. Its key in Redis is made of these two alone. Purchase and outbox row are one Postgres
transaction, so that a purchase that was recorded reaches its account, also if nobody asks again.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, Literal

from holdfast import audit, outbox
from holdfast.decisions import Level
from holdfast.errors import (
    Conflict,
    HoldfastError,
    InvalidRequest,
    OverloadedError,
    StoreUnavailable,
    UnknownOutcome,
)
from holdfast.keys import is_id
from holdfast.ledger import Ledger
from holdfast.model import Context, Movement
from holdfast.queries import sql

PROVIDER_PATTERN: Final = r"[a-z0-9_-]{1,32}"
PAYMENT_PATTERN: Final = r"[!-~]{1,255}"
_PROVIDER = re.compile(PROVIDER_PATTERN)
_PAYMENT = re.compile(PAYMENT_PATTERN)
# An answer waits so long for a grant that was made a moment before to be settled.
_PATIENCE_S: Final = 2.0
_PAUSE_S: Final = 0.05

Recorded = Literal["applied", "replay", "duplicate"]


@dataclass(frozen=True, slots=True)
class Purchase:
    """A payment and what it buys: microcredits. `paid` is money in minor units of `currency`."""

    provider: str
    payment: str
    account: str
    amount: int
    expires_at: datetime | None = None
    priority: int = 0
    metadata: dict[str, Any] | None = None
    paid: int | None = None
    currency: str | None = None

    def __post_init__(self) -> None:
        """Raises InvalidRequest for what is no payment."""
        if _PROVIDER.fullmatch(self.provider) is None:
            raise InvalidRequest.of_field(
                "payment.provider", "must be 1 to 32 characters of a-z 0-9 _ -"
            )
        if _PAYMENT.fullmatch(self.payment) is None:
            raise InvalidRequest.of_field(
                "payment.id", "must be 1 to 255 printable ASCII characters without a space"
            )

    @property
    def name(self) -> str:
        """As people write it: `stripe:pi_123`."""
        return f"{self.provider}:{self.payment}"

    @property
    def key(self) -> str:
        """The idempotency key in Redis."""
        return payment_key("purchase", self.provider, self.payment)

    @property
    def owed(self) -> outbox.Owed:
        return outbox.Owed(
            *("grant", self.account, self.key, f"payment {self.name}", self.amount, "purchase"),
            *(self.priority, self.expires_at, self.metadata),
        )

    @property
    def content(self) -> dict[str, Any]:
        """What a repetition must bring again, for the audit."""
        return _content(self.account, self.amount, self.expires_at, self.priority)


def _content(
    account: str, amount: int, expires_at: datetime | None, priority: int
) -> dict[str, Any]:
    found: dict[str, Any] = {"account": account, "amount": amount, "priority": priority}
    if expires_at is not None:
        found["expires_at"] = expires_at.isoformat()
    return found


def payment_key(what: str, provider: str, name: str) -> str:
    """An idempotency key made of `what`, a provider and its name for something; hashed where that
    is too long or no id. Neither `what` nor a provider has a colon, so no two share a key."""
    key = f"{what}:{provider}:{name}"
    return key if is_id(key) else f"{what}-sha256:{provider}:{sha256(name.encode()).hexdigest()}"


async def record(
    conn: Any, purchase: Purchase, caller: audit.Caller, *, first_try_s: float = 0.0
) -> Recorded:
    """Write a purchase down, with what it owes, in the caller's transaction; what came of it.

    `duplicate`: the payment is there with another content, nothing was changed, and the audit has
    both. Raises InvalidRequest, and what asyncpg raises.
    """
    named = (purchase.provider, purchase.payment)
    content = (purchase.account, purchase.amount, purchase.expires_at, purchase.priority)
    row = (*named, purchase.key, *content, purchase.paid, purchase.currency)
    repeats = await conn.fetchval(sql("purchase_record"), *row)
    if repeats is None:
        found = await conn.fetchrow(sql("purchase_find"), *named)
        before = _content(found["account"], found["amount"], found["expires_at"], found["priority"])
        await audit.record_as(
            caller,
            conn,
            action="purchase.duplicate",
            subject=f"payment:{purchase.name}",
            account=purchase.account,
            before=before,
            after=purchase.content,
        )
        return "duplicate"
    revived = await conn.execute(sql("purchase_gone"), purchase.key) == "DELETE 1"
    if repeats and not revived:
        return "replay"
    owed = purchase.owed
    if not await outbox.enqueue(
        conn,
        account=owed.account,
        key=owed.key,
        origin=owed.origin,
        amount=owed.amount,
        source=owed.source,
        priority=owed.priority,
        expires_at=owed.expires_at,
        metadata=owed.metadata,
        first_try_s=first_try_s,
    ):
        raise RuntimeError(f"payment {purchase.name} is new, and the outbox had it already")
    # Who told of it first: the outbox may be the one that applies it.
    await audit.record_as(
        caller,
        conn,
        action="purchase.record",
        subject=f"payment:{purchase.name}",
        account=purchase.account,
        after=purchase.content,
    )
    return "applied"


async def buy(
    ledger: Ledger,
    purchase: Purchase,
    caller: audit.Caller,
    context: Context,
    durability: Level | None = None,
) -> Movement:
    """Record a purchase and apply it; the movement is a replay where it had been recorded.

    Raises Conflict (`payment_duplicate`, `account_closed`), UnknownAccount, AmountLimit,
    InvalidRequest; UnknownOutcome where Redis could not be asked: the outbox finishes it.
    """
    recorded = await _recorded(ledger, purchase, caller)
    if recorded == "duplicate":
        raise Conflict(
            f"payment {purchase.name} was recorded before with another content",
            "payment_duplicate",
        )
    try:
        movement = await _applied(ledger, purchase.owed, context, durability)
    except HoldfastError as error:
        if not outbox.is_final(error):
            raise UnknownOutcome(
                f"payment {purchase.name} is recorded and will be applied ({error.detail});"
                " repeat the call to learn what it did"
            ) from error
        async with ledger.pool.acquire() as conn:
            await outbox.fail(conn, purchase.owed, error)
        raise
    movement.replayed = recorded == "replay"
    return movement


async def _recorded(ledger: Ledger, purchase: Purchase, caller: audit.Caller) -> Recorded:
    began = False
    try:
        async with ledger.pool.acquire() as conn, conn.transaction():
            began = True
            return await record(conn, purchase, caller, first_try_s=_PATIENCE_S)
    except StoreUnavailable as error:
        if not began:
            raise
        raise UnknownOutcome(
            f"Postgres did not say whether it has recorded payment {purchase.name}; repeat the call"
        ) from error


async def _applied(
    ledger: Ledger, owed: outbox.Owed, context: Context, durability: Level | None
) -> Movement:
    """Apply it in Redis, and wait for the settlement where that must come first."""
    loop = asyncio.get_running_loop()
    last_try_at = loop.time() + _PATIENCE_S
    while True:  # each try takes 0.4 s where the journal is behind
        try:
            return await outbox.apply(ledger, owed, context, durability)
        except OverloadedError:
            if loop.time() >= last_try_at:
                raise
        await asyncio.sleep(_PAUSE_S)
