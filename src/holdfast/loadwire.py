"""An HTTP/1.1 connection for load: one request at a time, kept alive, little work a request.

The general HTTP client costs several times what the service spends on a request, so that a load
made with it measures itself. This one writes requests that are ready-made bytes and parses answers
with httptools. No pipelining, no redirects, no compression, no cookies; an answer without a length
is not understood (the service always sends one).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

import httptools

__all__ = ["Answer", "Exchange", "Line", "Requests", "Target", "Wire", "WireLost", "connect"]

W = TypeVar("W", bound="Wire")

# An answer larger than this is not the service's: a page of 1,000 entries with 2 KiB of metadata
# each stays below 4 MiB.
_MAX_ANSWER_BYTES = 8 * 1024 * 1024


class WireLost(Exception):
    """The connection broke, or the answer took too long: whether the request counted is unknown."""


@dataclass(frozen=True)
class Target:
    """Where to connect to. `base` is what precedes every path."""

    host: str
    port: int
    tls: bool
    base: str

    @classmethod
    def parse(cls, url: str) -> Target:
        """From `http://host:port` or `https://...`. Raises ValueError."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url!r} is not an http:// or https:// address")
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        return cls(parts.hostname, port, tls, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Requests:
    """Makes the bytes of requests to one target with one API key."""

    def __init__(self, target: Target, api_key: str, durability: str | None = None) -> None:
        if not api_key.isascii() or not api_key.isprintable():
            raise ValueError("the API key has characters that a header cannot hold")
        self._base = target.base
        common = f" HTTP/1.1\r\nHost: {target.authority}\r\nAuthorization: Bearer {api_key}\r\n"
        self._read = common
        if durability is not None:
            common += f"Holdfast-Durability: {durability}\r\n"
        self._write = common + "Content-Type: application/json\r\n"

    def get(self, path: str) -> bytes:
        """A GET."""
        return f"GET {self._base}{path}{self._read}\r\n".encode()

    def put(self, path: str, body: str) -> bytes:
        """A PUT with a JSON body."""
        return self._bodied("PUT", path, body, "")

    def post(self, path: str, body: str, key: str | None = None) -> bytes:
        """A POST with a JSON body, which has no characters beyond ASCII."""
        return self._bodied("POST", path, body, f"Idempotency-Key: {key}\r\n" if key else "")

    def _bodied(self, method: str, path: str, body: str, key: str) -> bytes:
        length = f"Content-Length: {len(body)}\r\n\r\n"
        return f"{method} {self._base}{path}{self._write}{key}{length}{body}".encode("ascii")


class Wire(asyncio.Protocol):
    """One connection. A subclass says what follows an answer, and what follows its absence.

    States: idle → (`send`) → waiting → (`answered`) → idle, until closed; a connection that is
    lost while waiting calls `lost`, one that is lost while idle only becomes unusable. A request
    that has waited for `timeout_s` ends the connection.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting = False
        self._sent_at = 0.0
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._gone = self._loop.create_future()

    def answered(self, status: int, body: bytes) -> None:
        """The answer to the request is complete."""
        raise NotImplementedError

    def lost(self) -> None:
        """The connection ended before the answer did."""
        raise NotImplementedError

    @property
    def usable(self) -> bool:
        """Whether a request can be sent now."""
        return self._transport is not None and not self._waiting

    def send(self, request: bytes) -> None:
        """Write a request. Only on a usable connection."""
        assert self._transport is not None
        self._waiting = True
        self._sent_at = self._loop.time()
        self._transport.write(request)

    async def aclose(self) -> None:
        """Close, and wait until it is."""
        if self._transport is not None:
            self._transport.abort()
            await self._gone

    # One timer a connection, moved on when it fires, instead of one a request.
    def _check(self) -> None:
        left_s = self._timeout_s
        if self._waiting:
            left_s += self._sent_at - self._loop.time()
            if left_s <= 0 and self._transport is not None:
                self._transport.abort()
                return
        self._timer = self._loop.call_later(left_s, self._check)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's transports do not inherit from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._check()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        if not self._gone.done():
            self._gone.set_result(None)
        if self._waiting:
            self._waiting = False
            self.lost()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._abort()

    def on_body(self, data: bytes) -> None:
        self._body.append(data)
        self._body_bytes += len(data)
        if self._body_bytes > _MAX_ANSWER_BYTES:
            self._abort()

    def on_message_complete(self) -> None:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._body_bytes = 0
        if not self._waiting or self._transport is None:
            # Nobody asked, as when a server says why it hangs up.
            self._abort()
            return
        self._waiting = False
        if not self._parser.should_keep_alive():
            self._abort()
        self.answered(self._parser.get_status_code(), body)

    def _abort(self) -> None:
        # Unusable from now on; `connection_lost` follows.
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()


async def connect(target: Target, make: Callable[[], W], *, timeout_s: float) -> W:
    """Open a connection. Raises WireLost where that fails or takes longer than `timeout_s`."""
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context() if target.tls else None
    try:
        async with asyncio.timeout(timeout_s):
            _, wire = await loop.create_connection(make, target.host, target.port, ssl=context)
    except (OSError, TimeoutError) as error:
        raise WireLost(f"cannot connect to {target.authority}: {error}") from error
    return wire


class Answer(NamedTuple):
    """An answer, with the headers that a caller of this contract looks at."""

    status: int
    body: bytes
    retry_after: str | None


class Exchange(Wire):
    """A connection to await answers on."""

    def __init__(self, *, timeout_s: float) -> None:
        super().__init__(timeout_s=timeout_s)
        self._answer: asyncio.Future[Answer] | None = None
        self._retry_after: str | None = None

    async def ask(self, request: bytes) -> Answer:
        """Send one request and wait for its answer. Raises WireLost."""
        if not self.usable:
            raise WireLost("the connection is closed")
        self._answer = self._loop.create_future()
        self._retry_after = None
        self.send(request)
        try:
            return await self._answer
        except asyncio.CancelledError:
            # The answer may still come, to nobody: it must not meet the next request.
            self._abort()
            raise

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 11 and name.lower() == b"retry-after":
            self._retry_after = value.decode("latin-1")

    def answered(self, status: int, body: bytes) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(status, body, self._retry_after))

    def lost(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(WireLost("the connection ended before the answer"))


class Line:
    """A connection that is made again when it was lost."""

    def __init__(self, target: Target, *, timeout_s: float) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._exchange: Exchange | None = None

    async def ask(self, request: bytes) -> Answer:
        """Send one request and wait for its answer; it is not repeated. Raises WireLost."""
        if self._exchange is None or not self._exchange.usable:
            self._exchange = await connect(
                self._target,
                lambda: Exchange(timeout_s=self._timeout_s),
                timeout_s=self._timeout_s,
            )
        return await self._exchange.ask(request)

    async def aclose(self) -> None:
        """Close the connection, if there is one."""
        if self._exchange is not None:
            await self._exchange.aclose()
            self._exchange = None
