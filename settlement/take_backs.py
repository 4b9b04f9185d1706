"""Takes back what a payment gave when the money went back: refunds and disputes, each once.

Every second, for each event that waits (`payment_event`, state received) and whose purchase the
journal shows, in one transaction:

    event ─▶ how much of the purchase ─▶ noted on the purchase, owed by the outbox ─▶ event applied

A refund takes the share of the money that went back over all refunds so far, less what was taken
already: so two events in the wrong order take what they would have taken in the right one. A
dispute takes its share as well, and everything where it is not known what was paid. Never more is
taken than was given; what was spent meanwhile becomes debt, which the next grant pays.

Failures. An event whose payment nobody recorded waits; one that is refused is for review. Several
workers share the events by their row locks; one that dies leaves them as they were.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from holdfast import audit
from holdfast.errors import InvalidRequest
from holdfast.outbox import enqueue
from holdfast.payments import Event
from holdfast.purchases import payment_key
from holdfast.queries import sql as ledger_sql
from settlement.queries import Connection, Pool, sql

PERIOD_S: Final = 1.0
# Events of a round: four statements each, under 200 ms in one transaction.
_EVENTS: Final = 50


class AlreadyTaken(Exception):
    """The outbox has what an event is to take, and the event waits all the same."""


class TakeBacks:
    """The service of one worker. Several at once share the events."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def run(self) -> None:
        """Rounds until cancelled. Raises what asyncpg raises; then it is to be run again."""
        while True:
            if await self.round() < _EVENTS:
                await asyncio.sleep(PERIOD_S)

    async def round(self) -> int:
        """Take back what is due; answers how many events that were."""
        async with self._pool.acquire() as conn, conn.transaction():
            rows = await conn.fetch(sql("take_back_due"), _EVENTS)
            for row in rows:
                event = Event.of_row(row)
                try:
                    async with conn.transaction():  # one that is refused undoes no other
                        await _take_back(conn, event)
                except (InvalidRequest, AlreadyTaken) as error:
                    ended = (event.provider, event.id, "review", str(error))
                    await conn.execute(ledger_sql("payment_event_end"), *ended)
        return len(rows)


def share(event: Event, purchase: Mapping[str, Any]) -> int:
    """How many microcredits `event` takes of a purchase, after what was taken before."""
    amount: int = purchase["amount"]
    refunded: int = purchase["refunded"]
    whole = event.whole or purchase["paid"]
    part = amount if not whole or event.back is None else amount * min(event.back, whole) // whole
    if event.kind == "refund":
        part = max(part - refunded, 0)
    return min(part, amount - refunded - int(purchase["disputed"]))


async def _take_back(conn: Connection, event: Event) -> None:
    named = (event.provider, event.payment)
    purchase = await conn.fetchrow(sql("take_back_from"), *named)
    part = share(event, purchase)
    if part:
        because = (part, 0) if event.kind == "refund" else (0, part)
        noted = await conn.execute(sql("take_back_note"), *named, *because)
        owed = await enqueue(
            conn,
            kind="adjust",
            account=purchase["account"],
            key=payment_key(event.kind, event.provider, event.id),
            origin=f"{event.kind} of {event.provider}:{event.payment}",
            amount=-part,
            source="adjustment",
        )
        if noted != "UPDATE 1" or not owed:
            raise AlreadyTaken(f"event {event.id} of {event.provider} was acted upon before")
    await conn.execute(ledger_sql("payment_event_end"), event.provider, event.id, "applied", None)
    await audit.record(
        conn,
        actor=event.provider,
        action=f"purchase.{event.kind}",
        subject=f"payment:{event.provider}:{event.payment}",
        account=purchase["account"],
        after={"event": event.id, "taken_back": part},
    )
