"""Charges, refunds and grants over HTTP: what is over when it has happened."""

from __future__ import annotations

from holdfast.errors import InvalidRequest
from holdfast.http.answers import Answer, MovementAnswer, movement_answer
from holdfast.http.bodies import Charge, Grant, Payment, Refund
from holdfast.http.fields import time_at, time_ms
from holdfast.http.requests import Call
from holdfast.model import Movement
from holdfast.purchases import Purchase, buy


async def charge(call: Call, body: Charge) -> Answer[MovementAnswer]:
    """Take credits at once, for work that is done or priced: a hold and its commit in one."""
    movement = await call.ledger.charge(
        call.account,
        call.own_key,
        amount=body.amount,
        on_shortfall=body.on_shortfall,
        member=body.member,
        model=None if body.usage is None else body.usage.model,
        metadata=body.metadata,
        context=call.context(body.description),
        durability=call.durability,
    )
    return _made(movement)


async def refund(call: Call, body: Refund) -> Answer[MovementAnswer]:
    """Give back what a hold or charge took: at most that, over all refunds of it."""
    movement = await call.ledger.refund(
        call.account,
        call.own_key,
        of=body.of,
        amount=body.amount,
        metadata=body.metadata,
        context=call.audited_context(body.description, reason=body.reason),
        durability=call.durability,
    )
    return _made(movement)


async def grant(call: Call, body: Grant) -> Answer[MovementAnswer]:
    """Put credits into the account. Debt is paid first.

    With `payment` it is a purchase: the payment happens once, whatever Idempotency-Key comes with
    it. The same payment with another account, amount, expiry or priority is refused.
    """
    if body.payment is not None:
        return _made(await _purchase(call, body, body.payment))
    movement = await call.ledger.grant(
        call.account,
        call.own_key,
        amount=body.amount,
        source=body.source,
        priority=body.priority,
        expires_ms=None if body.expires_at is None else time_ms(body.expires_at),
        expires_at=body.expires_at,
        metadata=body.metadata,
        context=call.audited_context(body.description),
        durability=call.durability,
    )
    return _made(movement)


async def _purchase(call: Call, body: Grant, payment: Payment) -> Movement:
    if body.source not in (None, "purchase"):
        raise InvalidRequest.of_field("source", "must be purchase where there is a payment")
    _ = call.own_key  # so that a grant needs one whatever is in its body
    purchase = Purchase(
        provider=payment.provider,
        payment=payment.id,
        account=call.account,
        amount=body.amount,
        expires_at=None if body.expires_at is None else time_at(body.expires_at),
        priority=body.priority or 0,
        metadata=body.metadata,
    )
    context = call.audited_context(body.description)
    return await buy(call.ledger, purchase, call.caller(), context, call.durability)


def _made(movement: Movement) -> Answer[MovementAnswer]:
    status = 200 if movement.replayed else 201
    return Answer(status, movement_answer(movement), movement.replayed)
