"""A call as an endpoint sees it, and how it is read from an HTTP request.

The order is the order of refusals: API key, what the path names, key, body. Nothing has reached the
ledger before all of it was found good, so that a refusal here uses up no Idempotency-Key.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from holdfast.api_keys import ApiKey, ApiKeys
from holdfast.audit import Caller
from holdfast.errors import (
    BodyTooLarge,
    Forbidden,
    InvalidRequest,
    KeyInvalid,
    KeyMissing,
    MalformedJson,
    Unauthenticated,
    UnknownAccount,
)
from holdfast.keys import is_id
from holdfast.model import Context

if TYPE_CHECKING:
    from starlette.types import Receive

    from holdfast.config import Config
    from holdfast.http.routes import Route
    from holdfast.ledger import Ledger
    from holdfast.telemetry import CallTimer, Telemetry

Durability = Literal["memory", "local", "settled"]
Headers = Mapping[bytes, bytes]

MAX_BODY_BYTES: Final = 64 * 1024
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
# A payment provider's event carries what it is about in full.
MAX_EVENT_BYTES: Final = 512 * 1024

_DURABILITIES: Final = {b"memory": "memory", b"local": "local", b"settled": "settled"}
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
# Headers that mean something else when a proxy or a library has doubled them.
_SINGLE: Final = (b"authorization", b"idempotency-key", b"holdfast-durability", b"content-length")


# Who calls a route that is open to everybody.
NOBODY: Final = ApiKey(
    id="",
    digest=b"",
    name="",
    scopes=frozenset(),
    accounts=None,
    created_at=datetime.fromtimestamp(0, UTC),
    revoked_at=None,
    actor="nobody",
)


class Gone(Exception):
    """The client went away before it had sent its request; there is nobody to answer"""


@dataclass(slots=True)
class Service:
    """What the endpoints of one process work with."""

    config: Config
    ledger: Ledger
    api_keys: ApiKeys
    telemetry: Telemetry
    timers: Mapping[str, CallTimer]
    """The timer of each route, by its name."""
    routes: Mapping[str, Route]


class Call:
    """One call: alone in a request, or one of a batch.

    `account`, `hold`, `member` and `name` are '' where the path does not name them. `address` is
    where the connection came from.
    """

    __slots__ = (
        "account",
        "address",
        "api_key",
        "durability",
        "hold",
        "key",
        "member",
        "name",
        "request_id",
        "service",
        "traceparent",
    )

    def __init__(
        self, service: Service, api_key: ApiKey, request_id: str, address: str | None = None
    ) -> None:
        self.service = service
        self.api_key = api_key
        self.request_id = request_id
        self.address = address
        self.account = self.hold = self.member = self.name = ""
        self.key: str | None = None
        self.durability: Durability | None = None
        self.traceparent: str | None = None

    def take_ids(self, ids: Mapping[str, str]) -> None:
        """Take account, hold, member and name as the path gives them.

        Raises InvalidRequest for one outside the grammar, UnknownAccount for an account outside
        the API key's.
        """
        for field, value in ids.items():
            if field != "name" and not is_id(value):
                raise InvalidRequest.of_field(
                    field, "must be 1 to 128 characters of A-Z a-z 0-9 _ . : -"
                )
            setattr(self, field, value)
        if self.account and not self.api_key.covers(self.account):
            raise UnknownAccount(self.account, mark=0)  # as if it were not there

    @property
    def ledger(self) -> Ledger:
        return self.service.ledger

    @property
    def own_key(self) -> str:
        """The Idempotency-Key, on routes whose every call has one. Raises KeyMissing."""
        if self.key is None:
            raise KeyMissing("send an Idempotency-Key: a name of your own for this piece of work")
        return self.key

    def needs_key(self, what: str) -> None:
        """Raises KeyMissing where the call has none and `what` needs one."""
        if self.key is None:
            raise KeyMissing(f"{what} may rightly be done twice, so it needs an Idempotency-Key")

    def context(
        self,
        description: str | None = None,
        *,
        reason: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Context:
        """Who asks and why, for the entry."""
        return Context(
            self.request_id, self.api_key.actor, self.traceparent, description, reason, metadata
        )

    def audited_context(
        self,
        description: str | None = None,
        *,
        reason: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Context:
        """The same with where the call came from, for what the audit will have."""
        context = self.context(description, reason=reason, metadata=metadata)
        context.address = self.address
        return context

    def caller(self) -> Caller:
        """Who asks, for a change of Postgres itself."""
        return Caller(self.api_key.actor, self.api_key.id, self.address, self.request_id)


def refuse_doubled(pairs: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises InvalidRequest where a header that must be single is sent twice."""
    names = [name for name, _ in pairs]
    for name in _SINGLE:
        if names.count(name) > 1:
            raise InvalidRequest.of_field(name.decode(), "is sent twice")


def request_ids() -> Callable[[bytes | None], str]:
    """A giver of request ids: the caller's own if it is one, else new, unlike any other's."""
    prefix = f"req-{secrets.token_hex(6)}-"
    numbers = count(1)

    def give(sent: bytes | None) -> str:
        if sent is not None:
            text = sent.decode("latin-1")
            if is_id(text):
                return text
        return f"{prefix}{next(numbers):x}"

    return give


def read_token(headers: Headers) -> bytes:
    """The API key's word. Raises Unauthenticated."""
    sent = headers.get(b"authorization")
    if sent is None:
        raise Unauthenticated("send an API key: `Authorization: Bearer hf_…`")
    scheme, _, token = sent.partition(b" ")
    if scheme.lower() != b"bearer":
        raise Unauthenticated("the Authorization header must be `Bearer hf_…`")
    return token.strip()


def check_scope(api_key: ApiKey, scopes: frozenset[str]) -> None:
    """Raises Forbidden unless the key has one of `scopes`."""
    if api_key.scopes.isdisjoint(scopes):
        needed = " or ".join(sorted(scopes))
        raise Forbidden(f"this call needs an API key with the scope {needed}", scope=needed)


def read_key(headers: Headers) -> str | None:
    """The Idempotency-Key, sent bare or as a quoted string (RFC 8941). Raises KeyInvalid."""
    sent = headers.get(b"idempotency-key")
    if sent is None:
        return None
    key = sent.decode("latin-1")
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    return checked_key(key)


def checked_key(key: str) -> str:
    """`key`, if it is one. Raises KeyInvalid."""
    if not is_id(key):
        raise KeyInvalid("the Idempotency-Key must be 1 to 128 characters of A-Z a-z 0-9 _ . : -")
    return key


def read_durability(headers: Headers) -> Durability | None:
    """What the Holdfast-Durability header asks for. Raises InvalidRequest."""
    sent = headers.get(b"holdfast-durability")
    if sent is None:
        return None
    level = _DURABILITIES.get(sent)
    if level is None:
        raise InvalidRequest.of_field("Holdfast-Durability", "must be memory, local or settled")
    return cast(Durability, level)


def read_traceparent(headers: Headers) -> str | None:
    """The W3C trace context, if there is one; a malformed one is as good as none."""
    sent = headers.get(b"traceparent")
    if sent is None or _TRACEPARENT.fullmatch(sent) is None:
        return None
    return sent.decode("ascii")


async def read_body(receive: Receive, headers: Headers, max_bytes: int) -> bytes:
    """The whole body. Raises BodyTooLarge past `max_bytes`, whatever Content-Length says; Gone."""
    declared = headers.get(b"content-length")
    if declared is not None and (not declared.isdigit() or int(declared) > max_bytes):
        raise _too_large(max_bytes)
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise MalformedJson("the body is compressed; send it as it is")
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Gone
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        parts, size = [body], len(body)
        while message.get("more_body", False) and size <= max_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
        body = b"".join(parts)
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    return body


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body must be at most {max_bytes} bytes", max_bytes=max_bytes)
