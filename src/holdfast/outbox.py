"""The outbox: what is owed to an account, written down in Postgres before Redis is told.

    async with conn.transaction():
        ...                                     # why it is owed: a payment, a period that began
        await enqueue(conn, account="acme", key="allowance:acme:2026-11", origin="allowance",
                      amount=5_000_000, source="allowance")

From then on it happens once: the worker (`settlement/outbox.py`) applies each row under its key and
repeats that until the journal shows the entry. Whoever cannot wait for the worker may `apply` a row
himself; the key and the mark (rule 20 of docs/architecture.md) make it one effect all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import orjson

from holdfast.arguments import check
from holdfast.decisions import Level
from holdfast.errors import Conflict, HoldfastError, Unavailable
from holdfast.ledger import Ledger
from holdfast.model import MAX_AMOUNT, Context, Movement
from holdfast.queries import sql

Source = Literal["purchase", "allowance", "promo", "adjustment"]
Kind = Literal["grant", "adjust"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Errors are kept for operators, who read them in a list.
_ERROR_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class Owed:
    """What is to be done to an account. Amounts are microcredits; an adjustment has a sign."""

    kind: Kind
    account: str
    key: str
    origin: str
    amount: int
    source: Source
    priority: int = 0
    expires_at: datetime | None = None
    metadata: dict[str, Any] | None = None

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Owed:
        """A row of `outbox`."""
        metadata = row["metadata"]
        return cls(
            *(row["kind"], row["account"], row["key"], row["origin"], row["amount"]),
            *(row["source"], row["priority"], row["expires_at"]),
            None if metadata is None else orjson.loads(metadata),
        )


async def enqueue(
    conn: Any,
    *,
    account: str,
    key: str,
    origin: str,
    amount: int,
    source: str,
    priority: int = 0,
    expires_at: datetime | None = None,
    metadata: Mapping[str, Any] | None = None,
    kind: Kind = "grant",
    first_try_s: float = 0.0,
) -> bool:
    """Write down, in the caller's transaction, what is to be done under `key`; False if it was.

    `key` is the idempotency key in Redis, made of `origin` alone, so that the same reason never
    counts twice. A worker looks at it after `first_try_s`: for a caller that applies it himself.
    Raises InvalidRequest, and what asyncpg raises (CheckViolationError for another source).
    """
    sent = {"amount": amount, "priority": priority}
    lowest = 1 if kind == "grant" else -MAX_AMOUNT
    check(sent, lowest_amount=lowest, required="amount", account=account, key=key)
    text = None if metadata is None else orjson.dumps(metadata).decode()
    row = (kind, account, key, origin, amount, source, priority, expires_at, text, first_try_s)
    return await conn.fetchval(sql("outbox_enqueue"), *row) is not None


async def apply(
    ledger: Ledger, owed: Owed, context: Context, durability: Level | None = "memory"
) -> Movement:
    """Do it in Redis, once, however often and late this is called. Raises what the ledger raises.

    An adjustment takes what is not there any more as debt.
    """
    if owed.kind == "adjust":
        return await ledger.adjust(
            owed.account,
            owed.key,
            amount=owed.amount,
            reason=owed.origin,
            metadata=owed.metadata,
            context=context,
            durability=durability,
            owed=True,
            on_shortfall="debt",
        )
    expires_ms = None
    if owed.expires_at is not None:
        expires_ms = (owed.expires_at - _EPOCH) // timedelta(milliseconds=1)
    return await ledger.grant(
        owed.account,
        owed.key,
        amount=owed.amount,
        source=owed.source,
        priority=owed.priority,
        expires_ms=expires_ms,
        metadata=owed.metadata,
        context=context,
        durability=durability,
        owed=True,
    )


def is_final(error: HoldfastError) -> bool:
    """Does this refusal stay what it is if nobody does anything about it?"""
    # An account under review is refused until an operator has decided about its entries.
    under_review = isinstance(error, Conflict) and error.code == "account_frozen"
    return not isinstance(error, Unavailable) and not under_review


async def fail(conn: Any, owed: Owed, error: HoldfastError) -> bool:
    """Give a row up for an operator to look at; False where it is not pending any more."""
    text = f"{error.code}: {error.detail}"[:_ERROR_MAX]
    return bool(await conn.fetchval(sql("outbox_failed"), owed.account, owed.key, text))
