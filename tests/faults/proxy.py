"""A TCP proxy that breaks connections as a rule says.

    async with FaultProxy(("127.0.0.1", server.port), seed=7) as proxy:
        proxy.rule = Rule("drop-reply", chance=0.01)   # from now on, on every connection
        ...                                            # clients talk to 127.0.0.1:proxy.port
        proxy.rule = Rule()                            # those it struck stay broken
        proxy.cut_all()                                # and these are all reset

It knows no protocol: a *request* is a piece that came from the client, a *reply* one that came from
the server, as TCP delivered them. What a network cannot do it does not do either: no byte overtakes
another, and where bytes were swallowed nothing follows them on that connection.

What a connection suffers depends on the seed, on its number and on its own traffic alone, whatever
the others do. `rule` and `target` may be set from any thread; all else belongs to the event loop
that `start` ran in.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Literal, Self, cast

HOST = "127.0.0.1"

Kind = Literal["pass", "drop-request", "drop-reply", "half-open", "delay", "cut-reply", "refuse"]
Address = tuple[str, int]

# A server on this machine is connected to in microseconds, even a stopped one (the kernel does it),
# unless its backlog is full.
_CONNECT_S = 5.0
# Aborting a transport takes one turn of the loop.
_CLOSE_S = 5.0
# Servers' ends that a half-open connection left behind: a Postgres has 100 places, of which its
# clients here take some 30.
_ABANDONED = 32
# Pieces that one direction of a connection delays; more are left in the kernel. A piece is at most
# 256 KiB and mostly one tick of a client.
_HELD_PIECES = 256

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_ON_REQUESTS = frozenset({"drop-request", "half-open", "delay"})
_ON_REPLIES = frozenset({"drop-reply", "half-open", "delay", "cut-reply"})


@dataclass(eq=False)
class Rule:
    """What befalls a piece, with probability `chance`, until the rule has struck `at_most` times.

    - `pass`: nothing.
    - `drop-request`: it is lost from a random byte on, and all that the client sends afterwards.
    - `drop-reply`: it is lost, and all that the server sends afterwards; requests still arrive.
    - `half-open`: request or reply, it is lost, and nothing more passes either way. The server does
      not learn that the client goes, nor the client that the server does.
    - `delay`: request or reply, it and what follows it wait for `delay_ms`.
    - `cut-reply`: a random part of it, never all, is delivered; then both sides see a reset.
    - `refuse`: a new connection is reset; those that exist are left alone.
    """

    kind: Kind = "pass"
    chance: float = 1.0
    delay_ms: int = 0
    at_most: int | None = None
    strikes: int = 0
    struck: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    """Set by the first strike."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.chance <= 1.0:
            raise ValueError(f"a chance is 0 to 1, not {self.chance}")
        if (self.kind == "delay") != (self.delay_ms > 0):
            raise ValueError("a delay, and nothing else, takes a delay_ms of 1 or more")

    def strike(self, random: Random) -> bool:
        """Whether it strikes now; if so it is counted."""
        if self.at_most is not None and self.strikes >= self.at_most:
            return False
        if random.random() >= self.chance:
            return False
        self.strikes += 1
        self.struck.set()
        return True


class FaultProxy:
    """Listens on a free port of 127.0.0.1, and connects each client to `target`.

    `target` holds for new connections. A client whose server cannot be reached is reset.
    """

    def __init__(self, target: Address, *, seed: int = 0) -> None:
        self.target = target
        self.rule = Rule()
        self.seed = seed
        self.port = 0
        """0 until the first `start`; the same from then on."""
        self.accepted = 0
        """Connections that clients made so far."""
        self.abandoned: deque[_Pair] = deque()
        self._pairs: set[_Pair] = set()
        self._server: asyncio.Server | None = None

    @property
    def live(self) -> int:
        """Connections of which at least one end is open."""
        return len(self._pairs)

    @property
    def stalled(self) -> int:
        """Ends that are not read, because what they sent does not leave fast enough."""
        ends = (end for pair in self._pairs for end in (pair.client, pair.server) if end.open)
        return sum(not end.transport.is_reading() for end in ends)

    async def start(self) -> None:
        """Listen; after a `close`, on the same port. Raises OSError if somebody has taken it."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Pair(self).client, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listen no more and reset every connection, within 5 s."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        self.cut_all()
        async with asyncio.timeout(_CLOSE_S):
            await asyncio.gather(*(pair.over for pair in self._pairs))
            await server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def cut_all(self) -> None:
        """Reset every connection now, both of its ends."""
        for pair in list(self._pairs):
            pair.cut()

    def admit(self, pair: _Pair) -> bool:
        """A client is there: whether it may stay."""
        self._pairs.add(pair)
        if self._server is None:  # it was accepted while the proxy closed
            return False
        return self.rule.kind != "refuse" or not self.rule.strike(pair.random)

    def abandon(self, pair: _Pair) -> None:
        """One end has gone, and the other must not learn of it."""
        self.abandoned.append(pair)
        if len(self.abandoned) > _ABANDONED:
            self.abandoned.popleft().cut()

    def forget(self, pair: _Pair) -> None:
        """Both ends have gone."""
        self._pairs.discard(pair)
        if pair in self.abandoned:
            self.abandoned.remove(pair)


class _Pair:
    """One connection: the client's end and, once it is made, the server's."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        proxy.accepted += 1
        self.random = Random(f"{proxy.seed}:{proxy.accepted}")
        self.client = _End(self, _ON_REQUESTS)
        self.server = _End(self, _ON_REPLIES)
        self.client.other, self.server.other = self.server, self.client
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connecting: asyncio.Task[None] | None = None

    def connect(self) -> None:
        """Reach for the server; what the client sends waits until it is there."""
        if not self.proxy.admit(self):
            self.cut()
            return
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_S):
                await loop.create_connection(lambda: self.server, *self.proxy.target)
        except OSError:  # a TimeoutError is one
            self.client.cut()
        finally:
            self._connecting = None
            self._note_end()

    def cut(self) -> None:
        """Reset both ends."""
        if self._connecting is not None:
            self._connecting.cancel()
        self.client.cut()
        self.server.cut()

    def lost(self, end: _End, error: Exception | None) -> None:
        """One end has gone: the other follows it, unless the connection is half-open."""
        if end.other.open and end.swallows and end.other.swallows:
            self.proxy.abandon(self)
        elif error is not None or end.was_cut:
            self.cut()
        elif self._connecting is not None:
            self._connecting.cancel()
        else:
            end.finish_other()
        self._note_end()

    def _note_end(self) -> None:
        if self._connecting is None and not (self.client.open or self.server.open):
            self.proxy.forget(self)
            if not self.over.done():
                self.over.set_result(None)


class _End(asyncio.Protocol):
    """One socket of a pair. What it receives leaves through `other`."""

    other: _End

    def __init__(self, pair: _Pair, struck_by: frozenset[str]) -> None:
        self.pair = pair
        self.transport: asyncio.Transport
        self.open = False
        self.was_cut = False
        self.swallows = False
        """Whether what it receives is lost."""
        self._struck_by = struck_by
        self._full = False  # the kernel takes no more for now
        self._held: deque[tuple[float, bytes]] = deque()  # received, and when it may leave
        self._ended = False  # received all, and `other` closes once `_held` has left
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.open = True
        if self is self.pair.client:
            self.pair.connect()
        elif self.other.open:
            self.other.let_go()
        else:  # it went, or was cut, in the meantime
            self.cut()

    def data_received(self, data: bytes) -> None:
        if self.swallows:
            return
        rule = self.pair.proxy.rule
        if rule.kind in self._struck_by and rule.strike(self.pair.random):
            self._suffer(rule, data)
        elif self._held or not self.other.open:
            self._hold(data, 0)
        else:
            self.other.transport.write(data)

    def _suffer(self, rule: Rule, data: bytes) -> None:
        if rule.kind == "delay":
            self._hold(data, rule.delay_ms)
            return
        if rule.kind in ("drop-request", "cut-reply") and not self._held and self.other.open:
            self.other.transport.write(data[: self.pair.random.randrange(len(data))])
        self.swallows = True
        if rule.kind == "half-open":
            self.other.swallows = True
        elif rule.kind == "cut-reply":
            self.pair.cut()

    # What waits leaves in the order in which it came

    def _hold(self, data: bytes, delay_ms: int) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + delay_ms / 1000
        self._held.append((due, data))
        if self._timer is None and self.other.open:
            self._timer = loop.call_at(due, self.let_go)
        self.throttle()

    def let_go(self) -> None:
        """Pass on what is due."""
        loop, held = asyncio.get_running_loop(), self._held
        self._timer = None
        now = loop.time()
        while held and held[0][0] <= now:
            _, data = held.popleft()
            if self.other.open:
                self.other.transport.write(data)
        if held:
            self._timer = loop.call_at(held[0][0], self.let_go)
        elif self._ended:
            self.finish_other()
        self.throttle()

    def throttle(self) -> None:
        """Read only while there is room for it."""
        if not self.open or self.transport.is_closing():
            return
        if self.other._full or len(self._held) >= _HELD_PIECES:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        self._full = True
        self.other.throttle()

    def resume_writing(self) -> None:
        self._full = False
        self.other.throttle()

    # The end

    def finish_other(self) -> None:
        """Close `other` once it has got everything."""
        self._ended = True
        if not self._held and self.other.open:
            self.other.transport.close()

    def cut(self) -> None:
        """Reset this connection: the peer sees ECONNRESET, not an orderly end."""
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.open and not self.was_cut:
            self.was_cut = True
            connection: socket.socket = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self.pair.lost(self, exc)
