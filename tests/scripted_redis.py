"""A peer that listens like a Redis and misbehaves as a test says. It stores nothing.

async with listening() as peer, connected(peer) as wire:
    peer.obey_all_but(b"ECHO")           # never answered
    future = wire.send(0, "ECHO", "x")
    await peer.until(lambda: peer.echoes == [b"x"])
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import hiredis
import pytest

from holdfast.wire import Node, RedisUnavailable, Wire

PATIENCE_S = 20.0  # bounds a wait for what comes in milliseconds, so that a failure ends
TIMEOUT_S = 60.0  # of the wires here; their clock is moved by hand

STANDALONE = b"*2\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n"


class Session(asyncio.Protocol):
    """One connection to a peer."""

    def __init__(self, peer: "Peer") -> None:
        self.peer = peer
        self.reader = hiredis.Reader()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.peer.sessions.append(self)
        self.peer.pulse()

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        while command := self.reader.gets():
            self.peer.received.append(command)
            self.peer.behave(self, command)
        self.peer.pulse()

    def connection_lost(self, exc: Exception | None) -> None:
        self.peer.pulse()

    def obey(self, command: list[bytes]) -> None:
        """Say yes; to ECHO, what was sent."""
        if command[0] == b"HELLO":
            self.transport.write(STANDALONE)
        elif command[0] == b"ECHO":
            self.transport.write(b"$%d\r\n%b\r\n" % (len(command[1]), command[1]))
        else:
            self.transport.write(b"+OK\r\n")


class Peer:
    """Listens, remembers what it got, and answers as the test says."""

    def __init__(self) -> None:
        self.received: list[list[bytes]] = []
        self.sessions: list[Session] = []
        self.behave: Callable[[Session, list[bytes]], None] = Session.obey
        self.port = 0
        self._pulse: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def pulse(self) -> None:
        beat, self._pulse = self._pulse, asyncio.get_running_loop().create_future()
        if not beat.done():  # nobody gave up waiting for it
            beat.set_result(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at whenever the peer hears something."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await self._pulse

    @property
    def echoes(self) -> list[bytes]:
        return [command[1] for command in self.received if command[0] == b"ECHO"]

    def obey_all_but(self, word: bytes, reply: bytes = b"") -> None:
        """Answer the commands that begin with `word` by `reply`, or not at all."""

        def behave(session: Session, command: list[bytes]) -> None:
            if command[0] != word:
                session.obey(command)
            elif reply:
                session.transport.write(reply)

        self.behave = behave


@asynccontextmanager
async def listening(port: int = 0, context: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    peer = Peer()
    server = await asyncio.get_running_loop().create_server(
        lambda: Session(peer), "127.0.0.1", port, ssl=context
    )
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
        for session in peer.sessions:
            session.transport.abort()
        await server.wait_closed()


@asynccontextmanager
async def connected(peer: Peer, **options: Any) -> AsyncIterator[Wire]:
    limits = {"timeout_ms": int(TIMEOUT_S * 1000), "connect_timeout_ms": 10_000}
    wire = Wire(f"redis://127.0.0.1:{peer.port}", **{**limits, **options})
    await wire.connect()
    peer.received.clear()
    try:
        yield wire
    finally:
        await wire.close()


async def refusal(wire: Wire) -> str:
    """Why `wire` cannot connect. It is closed then."""
    try:
        with pytest.raises(RedisUnavailable) as caught:
            await wire.connect()
        return str(caught.value)
    finally:
        await wire.close()


def reconnection(wire: Wire) -> asyncio.Future[Node]:
    """Resolves to the node that the wire next connects to again."""
    done: asyncio.Future[Node] = asyncio.get_running_loop().create_future()
    wire.on_reconnect = done.set_result
    return done


async def outcome(future: asyncio.Future[Any]) -> Any:
    """The result or the error of `future`."""
    async with asyncio.timeout(PATIENCE_S):
        return (await asyncio.gather(future, return_exceptions=True))[0]


class Clock:
    """The loop's clock, which a test may put forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._now, self._ahead_s = loop.time, 0.0
        monkeypatch.setattr(loop, "time", lambda: self._now() + self._ahead_s)

    def advance(self, seconds: float) -> None:
        self._ahead_s += seconds
