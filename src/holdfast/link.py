"""One connection to one Redis server: commands of a tick leave together, replies match in order.

    WireError
    ├── RedisUnavailable   provably not sent: nothing happened
    ├── Overloaded         provably not sent: too much is unanswered already
    ├── OutcomeUnknown     sent, and no answer came: it may have happened
    └── ServerError        Redis refused, and says why (`code`)

Nothing here repeats a command. A link has one queue of futures, in the order in which their
commands were packed. An entry leaves that queue only when its reply arrives or the connection ends,
so neither a cancelled caller nor a deadline shifts anybody's reply.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import hiredis

Argument = bytes | str | int

# Error codes after which the map of a cluster is read again. The command was not executed.
_MAP_CODES = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"})

# A probe every 5 s after 15 s of silence, three of them: an idle connection that a firewall has
# dropped is found within 30 s, before a caller finds it. (macOS names the first one otherwise and
# keeps its default.)
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}

_PING = hiredis.pack_command(("PING",))
_NOTHING = object()


class WireError(Exception):
    """Redis did not answer with a result."""


class RedisUnavailable(WireError):
    """The command never left this process: nothing happened, and it may be repeated."""


class Overloaded(WireError):
    """As many commands are unanswered as one node is given: this one was not sent."""


class OutcomeUnknown(WireError):
    """The command was sent and no answer came: it may or may not have been executed."""


class ServerError(WireError):
    """Redis answered with an error. `code` is its first word (`NOSCRIPT`, `MOVED`, `OOM`, …)."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        word = message.partition(" ")[0]
        self.code = word if word.isupper() else "ERR"
        self.message = message


@dataclass(slots=True)
class Traffic:
    """What went over the wire since the start, over all nodes, for telemetry."""

    sent: int = 0
    """Commands handed to a transport."""
    writes: int = 0
    """Writes that carried them: at most one a tick and node."""
    timeouts: int = 0
    """Commands whose answer did not come in time."""
    reconnects: int = 0
    """Connections made after `Wire.connect` had returned."""
    bytes_out: int = 0
    bytes_in: int = 0


class Link(asyncio.Protocol):
    """One connection, from its handshake to its loss; after that it is never used again.

    `bound` is how many commands may be unanswered: 0 until the connection is made, and again from
    the moment it is given up. `_unsent` holds the commands at the tail of `_pending` that the
    transport has not been given: those of this tick, or more while it asks for a pause.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float,
        max_in_flight: int,
        traffic: Traffic,
        on_lost: Callable[[Link], None],
        on_stale_map: Callable[[], None],
    ) -> None:
        self.bound = 0
        self.cause = "not connected yet"
        self.made_at = 0.0
        self.lost: asyncio.Future[None] | None = None
        """Resolved when the connection has ended; None if none was ever made."""
        self._address = address
        self._timeout_s = timeout_s
        self._max_in_flight = max_in_flight
        self._traffic = traffic
        self._on_lost = on_lost
        self._on_stale_map = on_stale_map
        self._loop: asyncio.AbstractEventLoop
        self._transport: asyncio.Transport
        self._pending: deque[asyncio.Future[Any]] = deque()
        self._unsent: list[bytes] = []
        self._flush_due = False
        self._paused = False
        # One mark a tick: how many commands had been queued by then, and when. Deadlines belong to
        # marks, not to commands. A mark goes with the answer to its last command, so there are
        # never more marks than commands.
        self._answered = 0
        self._marks: deque[tuple[int, float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._reader = hiredis.Reader(replyError=ServerError, notEnoughData=_NOTHING)

    @property
    def in_flight(self) -> int:
        return len(self._pending)

    # Sending

    def send(self, args: tuple[Argument, ...]) -> asyncio.Future[Any]:
        """Queue one command for this tick's write; its future gets the reply."""
        pending = self._pending
        if len(pending) >= self.bound:
            raise self._refusal()
        # The stub of hiredis says a tuple of one element.
        self._unsent.append(hiredis.pack_command(args))  # type: ignore[arg-type]
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)
        future = self._loop.create_future()
        pending.append(future)
        return future

    def _refusal(self) -> WireError:
        if self.bound:
            return Overloaded(f"redis {self._address}: {self.bound} commands are unanswered")
        return RedisUnavailable(f"redis {self._address}: {self.cause}")

    def _flush(self) -> None:
        self._flush_due = False
        if not self._pending or self._transport.is_closing():
            return
        now = self._loop.time()
        self._marks.append((self._answered + len(self._pending), now))
        if self._timer is None:
            self._timer = self._loop.call_at(now + self._timeout_s, self._check_deadlines)
        if self._unsent and not self._paused:
            self._write()

    def _write(self) -> None:
        commands, self._unsent = self._unsent, []
        data = b"".join(commands)
        traffic = self._traffic
        traffic.sent += len(commands)
        traffic.writes += 1
        traffic.bytes_out += len(data)
        self._transport.write(data)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._unsent and not self._transport.is_closing():
            self._write()

    # Receiving

    def data_received(self, data: bytes) -> None:
        next_reply, pending = self._reader.gets, self._pending
        queued = len(pending)
        try:
            self._reader.feed(data)
            while (reply := next_reply()) is not _NOTHING:
                future = pending.popleft()
                if type(reply) is ServerError:
                    self._refused(future, reply)
                elif not future.done():
                    future.set_result(reply)
        except hiredis.ProtocolError as error:
            self.close(f"it does not speak the Redis protocol ({error})")
        except IndexError:
            self.close("it answered what nobody had asked")
        self._traffic.bytes_in += len(data)
        self._answered += queued - len(pending)
        marks = self._marks
        while marks and marks[0][0] <= self._answered:
            marks.popleft()
        if not self.bound and not pending:
            self._transport.abort()

    def _refused(self, future: asyncio.Future[Any], error: ServerError) -> None:
        if error.code in _MAP_CODES:
            self._on_stale_map()
        if not future.done():
            future.set_exception(error)

    # Deadlines

    def _check_deadlines(self) -> None:
        """The one timer: fail what is overdue, give up a connection that is silent for too long."""
        self._timer = None
        if not self._marks:
            return
        now, timeout_s = self._loop.time(), self._timeout_s
        wake_at = self._marks[0][1] + 2 * timeout_s
        if now >= wake_at:
            self.close(f"no answer for {2 * timeout_s:g} s")
            return
        overdue = 0
        for queued, at in self._marks:
            if at + timeout_s > now:
                wake_at = min(wake_at, at + timeout_s)
                break
            overdue = queued - self._answered
        self._fail_overdue(overdue)
        self._timer = self._loop.call_at(wake_at, self._check_deadlines)

    def _fail_overdue(self, count: int) -> None:
        """Fail the oldest `count` commands; their places in the queue stay for late replies."""
        written = len(self._pending) - len(self._unsent)
        for place, future in enumerate(islice(self._pending, count)):
            if place >= written:
                # Held back by a peer that does not read: something harmless goes in its place.
                self._unsent[place - written] = _PING
            if not future.done():
                self._traffic.timeouts += 1
                future.set_exception(
                    self._failure(place < written, f"no answer within {self._timeout_s:g} s")
                )

    # Life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = cast(asyncio.Transport, transport)
        self.lost = self._loop.create_future()
        self.made_at = self._loop.time()
        self.bound = self._max_in_flight
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                if hasattr(socket, option):
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def close(self, cause: str) -> None:
        """Give the connection up now; what is unanswered fails when the loop turns."""
        self.bound = 0
        self.cause = cause
        if self.lost is not None:
            self._transport.abort()

    def retire(self, cause: str) -> None:
        """Take no more commands, and close with the last answer."""
        self.bound = 0
        self.cause = cause
        if self.lost is not None and not self._pending:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.bound:
            self.bound = 0
            self.cause = str(exc or "the server closed the connection")
        if self._timer is not None:
            self._timer.cancel()
        written = len(self._pending) - len(self._unsent)
        for place, future in enumerate(self._pending):
            if not future.done():
                future.set_exception(self._failure(place < written, self.cause))
        self._pending.clear()
        self._unsent.clear()
        self._marks.clear()
        if self.lost is not None:
            self.lost.set_result(None)
        self._on_lost(self)

    def _failure(self, written: bool, cause: str) -> WireError:
        kind = OutcomeUnknown if written else RedisUnavailable
        return kind(f"redis {self._address}: {cause}")
