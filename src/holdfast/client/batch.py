"""Many calls in one request, each with its own key and its own result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.client.call import Call
from holdfast.client.errors import HoldfastError, error_from_answer
from holdfast.client.results import Answer

__all__ = ["MAX_BATCH", "BatchResult", "batch"]

MAX_BATCH = 1_000
"""The service's bound on calls in one batch."""


@dataclass(frozen=True)
class BatchResult:
    """What became of one call of a batch: `result` or `error`, the other one is None.

    Those with `error.retryable` can go into another batch as they are: `call` keeps its key.
    """

    call: Call[Any]
    status: int
    result: Answer | None = None
    error: HoldfastError | None = None


def batch(calls: Sequence[Call[Any]]) -> Call[tuple[BatchResult, ...]]:
    """Up to 1,000 calls that change something; order is kept within an account, not across.

    Raises ValueError for none, for too many, and for calls that only read.
    """
    calls = tuple(calls)
    if not 0 < len(calls) <= MAX_BATCH:
        raise ValueError(f"a batch takes 1 to {MAX_BATCH} calls, not {len(calls)}")
    for each in calls:
        if each.method != "POST":
            raise ValueError(f"a batch takes calls on holds and credits, not {each.op}")

    def read(document: Mapping[str, Any], **_: Any) -> tuple[BatchResult, ...]:
        answers = document["data"]
        if len(answers) != len(calls):
            raise ValueError(f"{len(answers)} results for {len(calls)} calls")
        return tuple(_result(call, answer) for call, answer in zip(calls, answers, strict=True))

    operations = [_operation(each) for each in calls]
    return Call(
        op="batch",
        method="POST",
        path="/v1/batch",
        body={"operations": operations},
        read=read,
    )


def _operation(call: Call[Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {"op": call.op, "account": call.account}
    if call.hold is not None:
        operation["hold"] = call.hold
    if call.key is not None:
        operation["key"] = call.key
    return operation | {"body": call.body}


def _result(call: Call[Any], answer: Mapping[str, Any]) -> BatchResult:
    status: int = answer["status"]
    body = answer["body"]
    if 200 <= status < 300:
        known = {
            "key": call.key,
            "replayed": bool(answer.get("replayed")),
            "created": status == 201,
        }
        return BatchResult(call, status, result=call.read(body, **known))
    headers = {"content-type": "application/problem+json"}
    error = error_from_answer(status, headers, json.dumps(body).encode(), key=call.key)
    return BatchResult(call, status, error=error)
