"""From a call to the parts of a request, and from an answer to a result or a typed error.

What both clients share, so that the one that waits and the one that blocks cannot differ.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2

from holdfast.client.call import Call, Durability
from holdfast.client.errors import (
    ConnectionLost,
    HoldfastError,
    UnexpectedAnswer,
    error_from_answer,
)

__all__ = ["Service", "error_from_failure", "read_answer", "signature_of_method"]

T = TypeVar("T")


@dataclass(frozen=True)
class Service:
    """Where the service is and how it is spoken to."""

    base_url: str
    api_key: str
    durability: Durability | None
    timeout_s: float

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url {self.base_url!r} does not begin with http:// or https://")
        if not self.api_key:
            raise ValueError("api_key is empty")

    def settings(self) -> dict[str, Any]:
        """What an httpx2 client is made with."""
        return {
            "base_url": self.base_url,
            "timeout": httpx2.Timeout(self.timeout_s, connect=min(5.0, self.timeout_s)),
            "headers": {
                "Authorization": f"Bearer {self.api_key}",
                "Accept": "application/json, application/problem+json",
                "User-Agent": "holdfast-python",
            },
            # httpx2 would hold back callers above 20 idle connections by opening new ones.
            "limits": httpx2.Limits(max_connections=100, max_keepalive_connections=100),
        }

    def request(self, call: Call[Any]) -> dict[str, Any]:
        """What an httpx2 client is asked with. Raises ValueError for a body JSON cannot hold."""
        headers: dict[str, str] = {}
        if call.key is not None:
            headers["Idempotency-Key"] = call.key
        durability = call.durability or self.durability
        if durability is not None and call.method != "GET":
            headers["Holdfast-Durability"] = durability
        content: bytes | None = None
        if call.body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(call.body, allow_nan=False, separators=(",", ":")).encode()
        return {
            "method": call.method,
            "url": call.path,
            "params": dict(call.query) or None,
            "headers": headers,
            "content": content,
        }


def error_from_failure(failure: httpx2.RequestError, call: Call[Any]) -> HoldfastError:
    """The typed error for a request that brought no answer."""
    what = str(failure) or type(failure).__name__
    if isinstance(failure, httpx2.TransportError):
        return ConnectionLost(
            f"no answer to {call.method} {call.path}: {what}",
            code="connection_lost",
            retryable=True,
            key=call.key,
        )
    return UnexpectedAnswer(
        f"the answer to {call.method} {call.path} cannot be read: {what}",
        code="unexpected_answer",
        key=call.key,
    )


def read_answer(call: Call[T], status: int, headers: Mapping[str, str], body: bytes) -> T:
    """The result, if the answer is a success. Raises the typed error if it is not."""
    if not 200 <= status < 300:
        raise error_from_answer(status, headers, body, key=call.key)
    try:
        return call.read(
            json.loads(body),
            key=call.key,
            replayed=headers.get("idempotency-replayed") == "true",
            created=status == 201,
            request_id=headers.get("x-request-id"),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnexpectedAnswer(
            f"the answer to {call.method} {call.path} is not of the contract: {error}",
            code="unexpected_answer",
            status=status,
            request_id=headers.get("x-request-id"),
            key=call.key,
        ) from error


def signature_of_method(build: Callable[..., Call[Any]]) -> inspect.Signature:
    """What `help` shows for the method that sends what `build` builds: its arguments, the result.

    Type checkers know it by themselves.
    """
    shape = inspect.signature(build)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    result = str(shape.return_annotation).removeprefix("Call[").removesuffix("]")
    return shape.replace(parameters=[own, *shape.parameters.values()], return_annotation=result)
