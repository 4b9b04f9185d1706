"""What payment providers tell: events, each taken once, in whatever order they come.

    event ─▶ written down, once ─┬─▶ a payment was made: a purchase, at once
                                 ├─▶ money went back: received, and taken back by the worker when
                                 │   the journal has the purchase (`settlement/take_backs.py`)
                                 ├─▶ not to be understood, or refused: for review
                                 └─▶ of no interest: ignored

Here is what all providers have in common; how one says it is in a module of its own
(`stripe_events.py`). Redis is not asked: an event is taken while it is away, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Literal

import orjson

from holdfast import audit
from holdfast.errors import InvalidRequest
from holdfast.keys import is_id
from holdfast.model import MAX_AMOUNT
from holdfast.purchases import Purchase, record
from holdfast.queries import sql

State = Literal["received", "applied", "review", "ignored"]
Kind = Literal["purchase", "refund", "dispute", "other"]

PAGE_MAX: Final = 1000
"""The most events of one page, as everywhere in the API; a listing answers one more, to say so."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event, as far as it matters. `credits` are microcredits; `paid`, `back` and `whole` are
    money in minor units of `currency`.

    Of a purchase: `account`, `credits`, `paid`. Of a refund: `back`, what went back of `whole` so
    far, over all refunds. Of a dispute: `back`, what it is about. `problem`: why it cannot be acted
    upon.
    """

    provider: str
    id: str
    type: str
    kind: Kind
    payment: str | None = None
    account: str | None = None
    credits: int | None = None
    paid: int | None = None
    currency: str | None = None
    back: int | None = None
    whole: int | None = None
    problem: str | None = None

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Event:
        """As it was written down."""
        return cls(**orjson.loads(row["data"]))


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of an event, and if it had been told before."""

    state: State
    error: str | None
    repeated: bool


async def take(conn: Any, event: Event, caller: audit.Caller) -> Taken:
    """Take an event in the caller's transaction; one that was told before changes nothing.

    Raises what asyncpg raises.
    """
    repeats = await conn.fetchval(
        sql("payment_event_record"),
        *(event.provider, event.id, event.type, event.kind, event.payment, event.account),
        *(event.credits, orjson.dumps(asdict(event)).decode()),
    )
    if repeats:
        row = await conn.fetchrow(sql("payment_event_find"), event.provider, event.id)
        return Taken(row["state"], row["error"], True)
    return await _act(conn, event, caller)


async def retry(conn: Any, provider: str, name: str, caller: audit.Caller) -> Taken | None:
    """Act again upon an event that was for review; None where there is no such one.

    In the caller's transaction. Raises what asyncpg raises.
    """
    row = await conn.fetchrow(sql("payment_event_find"), provider, name)
    if row is None or row["state"] != "review":
        return None
    taken = await _act(conn, Event.of_row(row), caller)
    await audit.record_as(
        caller,
        conn,
        action="payment.retry",
        subject=f"payment_event:{provider}:{name}",
        account=row["account"],
        before={"state": row["state"], "error": row["error"]},
        after={"state": taken.state, "error": taken.error},
    )
    return taken


async def listing(
    conn: Any,
    *,
    state: str | None = None,
    before: tuple[datetime, str] | None = None,
    limit: int = 100,
) -> list[dict[str, Any]]:
    """Events, newest first; `before` is time and id of the last one of the previous page."""
    at, name = before or (None, None)
    limit = max(1, min(limit, PAGE_MAX + 1))
    return [
        dict(row) for row in await conn.fetch(sql("payment_event_list"), state, at, name, limit)
    ]


async def _act(conn: Any, event: Event, caller: audit.Caller) -> Taken:
    state: State = "received"
    error = event.problem
    if event.kind == "other":
        state = "ignored"
    elif error is not None:
        state = "review"
    elif event.kind == "purchase":
        error = await _purchase(conn, event, caller)
        state = "applied" if error is None else "review"
    await conn.execute(sql("payment_event_end"), event.provider, event.id, state, error)
    return Taken(state, error, False)


async def _purchase(conn: Any, event: Event, caller: audit.Caller) -> str | None:
    """Turn a payment into credits; answers why that is for review."""
    if event.account is None or not is_id(event.account):
        return f"the payment names no account ({event.account!r})"
    if event.credits is None or not 1 <= event.credits <= MAX_AMOUNT:
        return f"the payment says {event.credits} microcredits"
    try:
        purchase = Purchase(
            event.provider,
            event.payment or "",
            event.account,
            event.credits,
            paid=event.paid,
            currency=event.currency,
        )
    except InvalidRequest as error:
        return error.detail
    if await record(conn, purchase, caller) == "duplicate":
        return f"payment {purchase.name} was recorded before with another content"
    return None
