"""Many calls in one request, each with its own key, status and answer."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any

from holdfast.errors import InvalidRequest
from holdfast.http import problems
from holdfast.http.answers import Answer, BatchAnswer, Result
from holdfast.http.bodies import Batch, Operation, parse_object
from holdfast.http.requests import Call, check_scope, checked_key

# Accounts worked on at the same time by one batch. Commands of one event-loop tick travel together,
# so that more would gain little, and a batch should not be all that Redis has to do.
_AT_ONCE = 64

_OF_HOLD = frozenset({"commit", "release", "extend"})


async def batch(call: Call, body: Batch) -> Answer[BatchAnswer]:
    """Make up to 1,000 calls on holds and credits.

    Each has its own Idempotency-Key and its own result, as if it had been made alone; one that is
    refused stops no other. Order is kept within an account, not across accounts. The
    Holdfast-Durability header counts for all of them.
    """
    operations = body.operations
    results: list[Result | None] = [None] * len(operations)
    by_account: dict[str, list[int]] = {}
    for index, operation in enumerate(operations):
        by_account.setdefault(operation.account, []).append(index)
    slots = asyncio.Semaphore(_AT_ONCE)

    async def in_order(indexes: list[int]) -> None:
        async with slots:
            for index in indexes:
                results[index] = await _result(call, operations[index])

    async with asyncio.TaskGroup() as group:
        for indexes in by_account.values():
            group.create_task(in_order(indexes))
    return Answer(200, {"data": [result for result in results if result is not None]})


async def _result(batch_call: Call, operation: Operation) -> Result:
    """What one operation comes to; never raises what only concerns itself."""
    started = perf_counter()
    name, service = operation.op, batch_call.service
    try:
        answer = await _perform(batch_call, operation)
        outcome = "replay" if answer.replayed else "ok"
        result: Result = {
            "status": answer.status,
            "body": answer.document,
            "replayed": answer.replayed,
        }
    except Exception as error:
        refusal = problems.refusal_of(error, name, batch_call.request_id)
        outcome = refusal.code
        may_read = "read" in batch_call.api_key.scopes
        document = problems.document(refusal, batch_call.request_id, may_read=may_read)
        result = {"status": refusal.status, "body": document, "replayed": False}
    service.timers[name].observe(outcome, perf_counter() - started)
    return result


async def _perform(batch_call: Call, operation: Operation) -> Answer[Any]:
    """One operation, as its route would do it."""
    route = batch_call.service.routes[operation.op]
    check_scope(batch_call.api_key, route.scopes)
    if (operation.op in _OF_HOLD) is (operation.hold is None):
        wrong = "is required" if operation.hold is None else "is not known here"
        raise InvalidRequest.of_field("hold", wrong)
    call = Call(batch_call.service, batch_call.api_key, batch_call.request_id, batch_call.address)
    call.durability, call.traceparent = batch_call.durability, batch_call.traceparent
    ids = {"account": operation.account}
    if operation.hold is not None:
        ids["hold"] = operation.hold
    call.take_ids(ids)
    if operation.key is not None:
        call.key = checked_key(operation.key)
    return await route.endpoint(call, parse_object(route.form, operation.body or {}))
