"""One connection and a peer that misbehaves: order, bounds, deadlines, back-pressure."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from holdfast.wire import OutcomeUnknown, Overloaded, RedisUnavailable, ServerError, Wire
from tests.scripted_redis import (
    TIMEOUT_S,
    Clock,
    Peer,
    Session,
    connected,
    listening,
    outcome,
    reconnection,
)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with listening() as peer:
        yield peer


@pytest.fixture
async def wire(peer: Peer) -> AsyncIterator[Wire]:
    async with connected(peer) as wire:
        yield wire


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


# Error replies


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("NOSCRIPT No matching script.", "NOSCRIPT"),
        ("MOVED 1 127.0.0.1:1", "MOVED"),
        ("Something else", "ERR"),
        ("", "ERR"),
    ],
)
async def test_error_reply_fails_its_own_call_only(
    peer: Peer, wire: Wire, message: str, code: str
) -> None:
    peer.obey_all_but(b"EVALSHA", f"-{message}\r\n".encode())
    before, failed, after = (
        wire.send(0, "ECHO", "before"),
        wire.send(0, "EVALSHA", "x", 0),
        wire.send(0, "ECHO", "after"),
    )
    error = await outcome(failed)
    assert isinstance(error, ServerError)
    assert (error.code, error.message) == (code, message)
    assert [await before, await after] == [b"before", b"after"]
    assert wire.traffic.reconnects == 0


# Sending


async def test_commands_of_a_tick_leave_in_one_write_and_in_order(
    peer: Peer, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, writes = asyncio.get_running_loop(), wire.traffic.writes
    with monkeypatch.context() as patch:
        scheduled: list[object] = []
        call_soon = loop.call_soon

        def counted(*args: Any) -> asyncio.Handle:
            scheduled.append(args)
            return call_soon(*args)

        patch.setattr(loop, "call_soon", counted)
        futures = [wire.send(0, "ECHO", number) for number in range(500)]
    assert len(scheduled) == 1
    assert wire.in_flight == 500
    assert wire.traffic.writes == writes
    assert [int(await future) for future in futures] == list(range(500))
    assert wire.traffic.writes == writes + 1
    assert peer.echoes == [b"%d" % number for number in range(500)]
    assert wire.in_flight == 0


async def test_argument_of_another_type_queues_nothing(peer: Peer, wire: Wire) -> None:
    with pytest.raises(TypeError):
        wire.send(0, "ECHO", None)  # type: ignore[arg-type]
    assert wire.in_flight == 0
    assert await wire.call(0, "ECHO", "é") == "é".encode()
    assert peer.received == [[b"ECHO", "é".encode()]]


async def test_more_than_the_bound_is_refused_at_once(peer: Peer) -> None:
    async with connected(peer, max_in_flight=10) as wire:
        peer.obey_all_but(b"ECHO")
        futures = [wire.send(0, "ECHO", number) for number in range(10)]
        with pytest.raises(Overloaded, match="10 commands are unanswered"):
            wire.send(0, "ECHO", "one too many")
        await peer.until(lambda: len(peer.echoes) == 10)
        futures[0].cancel()
        with pytest.raises(Overloaded):  # the server has not answered that one either
            wire.send(0, "ECHO", "one too many")
        peer.behave = Session.obey
        for command in list(peer.received):
            peer.sessions[0].obey(command)
        assert [int(await future) for future in futures[1:]] == list(range(1, 10))
        assert await wire.call(0, "ECHO", "room again") == b"room again"
    assert b"one too many" not in peer.echoes


async def test_cancelled_caller_shifts_nobodys_reply(peer: Peer, wire: Wire) -> None:
    early, waiting, last = (wire.send(0, "ECHO", name) for name in ("early", "waiting", "last"))
    early.cancel()  # before the tick's write
    caller = asyncio.create_task(wire.call(0, "ECHO", "caller"))
    await asyncio.sleep(0)
    waiting.cancel()  # after it
    caller.cancel()
    assert await last == b"last"
    peer.obey_all_but(b"GET", b"-ERR no\r\n")
    wire.send(0, "GET", "k").cancel()
    assert await wire.call(0, "ECHO", "next") == b"next"
    assert peer.echoes == [b"early", b"waiting", b"last", b"caller", b"next"]


# Deadlines


async def test_late_reply_is_dropped_and_shifts_nobody(
    peer: Peer, wire: Wire, clock: Clock
) -> None:
    peer.obey_all_but(b"ECHO")
    late = wire.send(0, "ECHO", "late")
    await peer.until(lambda: peer.echoes == [b"late"])
    clock.advance(TIMEOUT_S / 2)
    younger = wire.send(0, "ECHO", "younger")
    clock.advance(TIMEOUT_S / 2)
    error = await outcome(late)
    assert isinstance(error, OutcomeUnknown)
    assert "no answer within 60 s" in str(error)
    assert not younger.done()
    assert wire.in_flight == 2
    for command in list(peer.received):
        peer.sessions[0].obey(command)
    assert await younger == b"younger"
    assert wire.traffic.timeouts == 1
    assert wire.traffic.reconnects == 0


async def test_deadline_is_that_of_the_command_not_of_the_oldest(
    peer: Peer, wire: Wire, clock: Clock
) -> None:
    peer.obey_all_but(b"ECHO")
    futures = []
    for number in range(3):
        futures.append(wire.send(0, "ECHO", number))
        await peer.until(lambda expected=number: len(peer.echoes) > expected)  # type: ignore[misc]
        clock.advance(TIMEOUT_S / 3)
    for number in range(3):
        assert isinstance(await outcome(futures[number]), OutcomeUnknown)
        assert [future.done() for future in futures].count(True) == number + 1
        clock.advance(TIMEOUT_S / 3)


async def test_connection_that_is_idle_is_not_silent(wire: Wire, clock: Clock) -> None:
    for _ in range(3):
        assert await wire.call(0, "ECHO", "x") == b"x"
        clock.advance(TIMEOUT_S * 3)
    assert wire.traffic.reconnects == 0


async def test_connection_silent_for_twice_the_timeout_is_given_up(
    peer: Peer, wire: Wire, clock: Clock
) -> None:
    peer.obey_all_but(b"ECHO")
    oldest = wire.send(0, "ECHO", "oldest")
    await peer.until(lambda: len(peer.echoes) == 1)
    clock.advance(TIMEOUT_S)
    assert isinstance(await outcome(oldest), OutcomeUnknown)
    clock.advance(TIMEOUT_S * 0.9)
    younger = wire.send(0, "ECHO", "younger")
    await peer.until(lambda: len(peer.echoes) == 2)
    again = reconnection(wire)
    clock.advance(TIMEOUT_S * 0.1)
    error = await outcome(younger)
    assert isinstance(error, OutcomeUnknown)
    assert "no answer for 120 s" in str(error)
    peer.behave = Session.obey
    await outcome(again)
    assert await wire.call(0, "ECHO", "new") == b"new"


async def test_deadlines_take_one_timer_a_connection(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, timers = asyncio.get_running_loop(), []
    call_at = loop.call_at

    def counted(when: float, *args: Any, **options: Any) -> asyncio.TimerHandle:
        timers.append(when)
        return call_at(when, *args, **options)

    await wire.call(0, "ECHO", "the timer is armed from here on")
    monkeypatch.setattr(loop, "call_at", counted)
    for number in range(100):
        await asyncio.gather(*(wire.call(0, "ECHO", number) for _ in range(10)))
    assert timers == []


# Back-pressure: a peer that does not read

LARGE = b"x" * 2**20
MANY = 24  # MiB, more than the two socket buffers of a connection take


async def stalled(peer: Peer, wire: Wire) -> list[asyncio.Future[Any]]:
    """Write until the transport asks for a pause; the last commands stay behind."""
    peer.sessions[-1].transport.pause_reading()
    sent, futures = wire.traffic.sent, []
    for _ in range(MANY):
        futures.append(wire.send(0, "SET", "k", LARGE))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert wire.traffic.sent - sent < MANY - 2
    return futures


async def test_pause_of_the_transport_holds_commands_back(peer: Peer, wire: Wire) -> None:
    futures = await stalled(peer, wire)
    writes = wire.traffic.writes
    last = wire.send(0, "ECHO", "last")
    peer.sessions[-1].transport.resume_reading()
    assert await outcome(last) == b"last"
    assert [await future for future in futures] == [b"OK"] * MANY
    assert wire.traffic.writes == writes + 1


async def test_what_is_held_back_for_too_long_is_never_executed(
    peer: Peer, wire: Wire, clock: Clock
) -> None:
    futures = await stalled(peer, wire)
    last = wire.send(0, "ECHO", "last")
    await asyncio.sleep(0)
    clock.advance(TIMEOUT_S * 1.2)
    assert isinstance(await outcome(last), RedisUnavailable)
    outcomes = [type(await outcome(future)) for future in futures]
    written = outcomes.count(OutcomeUnknown)
    assert outcomes == [OutcomeUnknown] * written + [RedisUnavailable] * (MANY - written)
    peer.sessions[-1].transport.resume_reading()
    assert await wire.call(0, "ECHO", "next") == b"next"
    words = [command[0] for command in peer.received]
    assert words == [b"SET"] * written + [b"PING"] * (MANY - written + 1) + [b"ECHO"]


async def test_what_was_held_back_when_the_connection_broke_did_not_happen(
    peer: Peer, wire: Wire
) -> None:
    futures = await stalled(peer, wire)
    written = wire.traffic.sent - 2  # greeting and HELLO
    peer.sessions[-1].transport.abort()
    outcomes = [type(await outcome(future)) for future in futures]
    assert outcomes == [OutcomeUnknown] * written + [RedisUnavailable] * (MANY - written)
