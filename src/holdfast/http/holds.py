"""Holds over HTTP: set credits aside, look, take what the work cost, give back, ask for more.

A call has been authenticated and its body checked when it arrives here (`exchange.py`); what the
ledger refuses is raised through, and becomes a problem document there.
"""

from __future__ import annotations

from holdfast.http.answers import Answer, HoldAnswer, hold_answer
from holdfast.http.bodies import Commit, Extend, NoQuery, Release, Reserve
from holdfast.http.requests import Call
from holdfast.model import Hold


async def reserve(call: Call, body: Reserve) -> Answer[HoldAnswer]:
    """Set credits aside for one piece of work.

    The Idempotency-Key becomes the hold's id. 201 for a new hold; 200 where the same call was made
    before, with what it answered then.
    """
    hold = await call.ledger.reserve(
        call.account,
        call.own_key,
        amount=body.amount,
        min_amount=body.min_amount,
        ttl_seconds=body.ttl_seconds,
        member=body.member,
        model=None if body.usage is None else body.usage.model,
        metadata=body.metadata,
        context=call.context(body.description),
        durability=call.durability,
    )
    return Answer(200 if hold.replayed else 201, hold_answer(hold), hold.replayed)


async def get_hold(call: Call, query: NoQuery) -> Answer[HoldAnswer]:
    """The hold as it is now."""
    hold = await call.ledger.get_hold(call.account, call.hold)
    return _as_it_is(hold)


async def commit(call: Call, body: Commit) -> Answer[HoldAnswer]:
    """Take what the work really cost, and give the rest back.

    More than the hold comes out of what is available; where that is not enough, `on_shortfall`
    decides. After the deadline the account is charged instead, and the hold is marked late.
    """
    if body.final is False:
        call.needs_key("a commit with final=false")
    hold = await call.ledger.commit(
        call.account,
        call.hold,
        key=call.key,
        amount=body.amount,
        on_shortfall=body.on_shortfall,
        final=body.final,
        context=call.context(body.description, metadata=body.metadata),
        durability=call.durability,
    )
    return _as_it_is(hold)


async def release(call: Call, body: Release) -> Answer[HoldAnswer]:
    """Give back what is left of the hold. Of an expired one nothing is left, and that is fine."""
    hold = await call.ledger.release(
        call.account,
        call.hold,
        key=call.key,
        reason=body.reason,
        context=call.context(body.description, reason=body.reason, metadata=body.metadata),
        durability=call.durability,
    )
    return _as_it_is(hold)


async def extend(call: Call, body: Extend) -> Answer[HoldAnswer]:
    """Give the hold more time, or more credits.

    With `ttl_seconds` alone it is a heartbeat, which may be repeated at will. `add_amount` needs an
    Idempotency-Key; declined, it leaves the hold as it was.
    """
    if body.add_amount is not None:
        call.needs_key("an extend with add_amount")
    hold = await call.ledger.extend(
        call.account,
        call.hold,
        key=call.key,
        ttl_seconds=body.ttl_seconds,
        add_amount=body.add_amount,
        context=call.context(body.description, metadata=body.metadata),
        durability=call.durability,
    )
    return _as_it_is(hold)


def _as_it_is(hold: Hold) -> Answer[HoldAnswer]:
    return Answer(200, hold_answer(hold), hold.replayed)
