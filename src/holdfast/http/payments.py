"""What payment providers send: events, verified over the exact bytes, taken once."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import TypedDict

from holdfast.audit import Caller
from holdfast.errors import NotFound
from holdfast.http.answers import Answer
from holdfast.http.bodies import Form
from holdfast.http.requests import Call
from holdfast.payments import take
from holdfast.stripe_events import verified


class Signed(Form):
    """An event as its provider sends it."""

    model_config = ConfigDict(extra="allow", strict=True)

    content: SkipJsonSchema[bytes] = b""
    signature: SkipJsonSchema[str | None] = None


class EventAnswer(TypedDict):
    """What became of an event."""

    event: str
    state: Annotated[
        Literal["received", "applied", "review", "ignored"],
        Field(description="review: it is kept, and an operator must look at it"),
    ]


async def stripe(call: Call, body: Signed) -> Answer[EventAnswer]:
    """Take an event of Stripe: a payment, a refund, a dispute. Others are ignored.

    Stripe signs it with the secret of this endpoint; there is no API key. An event that was taken
    before changes nothing.
    """
    secret = call.service.config.stripe_webhook_secret
    if secret is None:
        raise NotFound("no events of Stripe are taken here: set HOLDFAST_STRIPE_WEBHOOK_SECRET")
    # In a thread, for the first one loads Stripe's library.
    event = await asyncio.to_thread(
        verified, body.content, body.signature, secret.get_secret_value()
    )
    caller = Caller("stripe", None, call.address, call.request_id)
    async with call.ledger.pool.acquire() as conn, conn.transaction():
        taken = await take(conn, event, caller)
    return Answer(200, {"event": event.id, "state": taken.state}, taken.repeated)
