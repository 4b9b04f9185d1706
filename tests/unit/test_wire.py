"""Nodes that misbehave on purpose: connecting, loss and return, a map that changes."""

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.wire import OutcomeUnknown, RedisUnavailable, ServerError, Wire
from tests.scripted_redis import (
    PATIENCE_S,
    Clock,
    Peer,
    Session,
    connected,
    listening,
    outcome,
    reconnection,
    refusal,
)

# Made for `localhost`, valid until 2126; it protects nothing.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgmgClQgcTjYM9vUM7
8YGr7bt+NudUa4DyQ2ETNnTbzYKhRANCAAQBVoN56JNlRjb4GjTYIQsUXI5ye646
nsNqmvrRDmbbEWew6rq5X4I+zPQFeMtbdKDwfgDNqMaZQnkb+nLqiMCM
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIUGg/bvTTOJtCfI2Vnjf8awOLUYPUwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMDA3NTkyNVoYDzIxMjYxMDI3
MDc1OTI1WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQBVoN56JNlRjb4GjTYIQsUXI5ye646nsNqmvrRDmbbEWew6rq5X4I+
zPQFeMtbdKDwfgDNqMaZQnkb+nLqiMCMo28wbTAdBgNVHQ4EFgQU4iU3+5QWmPYf
IvvcnBe9nczGM18wHwYDVR0jBBgwFoAU4iU3+5QWmPYfIvvcnBe9nczGM18wGgYD
VR0RBBMwEYIJbG9jYWxob3N0hwR/AAABMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZI
zj0EAwIDSAAwRQIhALiQcFMHrjVM0C9v5Mz7Wm1rZVB69r9WE34gr4eY4HvNAiAH
KihI3n80WLaPfCf/Fi9Vl7rG9Yh2dYSKs2lIhY8+iQ==
-----END CERTIFICATE-----
"""


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


# Connecting


@pytest.mark.parametrize("limit", ["timeout_ms", "connect_timeout_ms", "max_in_flight"])
def test_limits_are_positive(limit: str) -> None:
    with pytest.raises(ValueError):
        Wire("redis://h", **{limit: 0})  # type: ignore[arg-type]


async def test_connection_introduces_itself_before_anything_else(peer: Peer) -> None:
    wire = Wire(f"redis://bob:secret@127.0.0.1:{peer.port}/2", name="worker-1")
    await wire.connect()
    assert peer.received == [
        [b"AUTH", b"bob", b"secret"],
        [b"CLIENT", b"SETNAME", b"worker-1"],
        [b"SELECT", b"2"],
        [b"HELLO"],
    ]
    assert [str(node.address) for node in wire.nodes()] == [f"127.0.0.1:{peer.port}"]
    assert wire.nodes()[0].slots == [(0, 16383)]
    await wire.close()


async def test_login_that_fails_is_named_without_the_password(peer: Peer) -> None:
    peer.obey_all_but(b"AUTH", b"-WRONGPASS invalid username-password pair\r\n")
    message = await refusal(Wire(f"redis://:secret@127.0.0.1:{peer.port}"))
    assert "WRONGPASS" in message
    assert "secret" not in message


async def test_name_of_the_connection_may_be_forbidden(peer: Peer) -> None:
    peer.obey_all_but(b"CLIENT", b"-NOPERM no permissions to run 'client|setname'\r\n")
    async with connected(peer) as wire:
        assert await wire.call(0, "ECHO", "x") == b"x"


@pytest.mark.parametrize(
    ("hello", "cause"),
    [
        (b"*2\r\n$4\r\nmode\r\n$8\r\nsentinel\r\n", "a Sentinel; name a server instead"),
        (b"-NOAUTH Authentication required.\r\n", "NOAUTH Authentication required."),
        (b"+what?\r\n", "it hides what it is"),
    ],
)
async def test_peer_that_is_no_redis_to_work_with(peer: Peer, hello: bytes, cause: str) -> None:
    peer.obey_all_but(b"HELLO", hello)
    message = await refusal(Wire(f"redis://127.0.0.1:{peer.port}"))
    assert message == f"redis 127.0.0.1:{peer.port}: {cause}"


async def test_process_that_starts_before_redis_finds_it_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    long_away = asyncio.Event()
    sleep = asyncio.sleep

    async def record(delay_s: float) -> None:
        pauses.append(delay_s)
        if len(pauses) == 10:
            long_away.set()
        await sleep(0)

    async with listening() as peer:
        port = peer.port
    wire = Wire(f"redis://127.0.0.1:{port}")
    with pytest.raises(RedisUnavailable, match="not connected yet"):
        wire.send(0, "PING")
    monkeypatch.setattr("holdfast.wire.asyncio.sleep", record)
    with pytest.raises(RedisUnavailable):
        await wire.connect()
    async with asyncio.timeout(PATIENCE_S):
        await long_away.wait()
    assert all(0.1 <= pause <= 1.0 for pause in pauses)
    assert min(pauses[6:]) >= 0.5
    with pytest.raises(RedisUnavailable, match=f"Errno {errno.ECONNREFUSED}"):
        wire.send(0, "PING")
    found = reconnection(wire)
    async with listening(port) as peer:
        assert await outcome(found) is wire.node_of(0)
        assert await wire.call(0, "ECHO", "x") == b"x"
        assert len(peer.sessions) == 1
        await wire.connect()  # already done
        assert len(peer.sessions) == 1
    async with asyncio.timeout(PATIENCE_S):
        while wire.nodes()[0].connected:
            await sleep(0)
    with pytest.raises(RedisUnavailable, match=r"none of .* is connected"):
        await wire.connect()
    await wire.close()


async def test_connection_refused() -> None:
    async with listening() as peer:
        port = peer.port
    message = await refusal(Wire(f"redis://127.0.0.1:{port}"))
    assert message.startswith(f"redis 127.0.0.1:{port}: [Errno {errno.ECONNREFUSED}]")


async def test_server_that_accepts_and_is_silent(peer: Peer) -> None:
    peer.obey_all_but(b"CLIENT")
    message = await refusal(Wire(f"redis://127.0.0.1:{peer.port}", connect_timeout_ms=50))
    assert "no connection within 0.05 s" in message
    await peer.until(peer.sessions[0].transport.is_closing)


async def test_idle_connection_is_probed_by_the_kernel(wire: Wire) -> None:
    connection = wire.node_of(0).link._transport.get_extra_info("socket")
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5


async def test_tls_checks_the_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = tmp_path / "localhost.pem"
    pem.write_text(CERTIFICATE)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    async with listening(context=context) as peer:
        url = f"rediss://localhost:{peer.port}"
        assert "certificate verify failed" in await refusal(Wire(url, connect_timeout_ms=10_000))
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        wire = Wire(url, connect_timeout_ms=10_000)
        await wire.connect()
        assert await wire.call(0, "ECHO", "x") == b"x"
        await wire.close()


# Loss


@pytest.mark.parametrize(
    ("last_words", "cause"),
    [
        (b"$9\r\nhalf of", "the server closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak the Redis protocol"),
        (b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n", "answered what nobody had asked"),
    ],
)
async def test_connection_that_breaks_fails_what_is_in_flight_and_is_made_again(
    peer: Peer, wire: Wire, last_words: bytes, cause: str
) -> None:
    def behave(session: Session, command: list[bytes]) -> None:
        session.transport.write(last_words)
        session.transport.close()

    peer.behave = behave
    futures = [wire.send(0, "ECHO", number) for number in range(3)]
    answered = last_words.count(b"+OK")
    outcomes = [await outcome(future) for future in futures]
    peer.behave = Session.obey
    if answered:
        assert outcomes == [b"OK"] * 3
    else:
        assert all(isinstance(error, OutcomeUnknown) and cause in str(error) for error in outcomes)
    again = reconnection(wire)
    with pytest.raises(RedisUnavailable, match=cause):
        while not again.done():
            wire.send(0, "ECHO", "in between")
            await asyncio.sleep(0)
    assert await outcome(again) is wire.node_of(0)
    assert wire.traffic.reconnects == 1
    assert await wire.call(0, "ECHO", "again") == b"again"
    assert b"in between" not in peer.echoes


async def test_what_never_left_is_told_from_what_did(peer: Peer, wire: Wire) -> None:
    peer.obey_all_but(b"ECHO")
    written = wire.send(0, "ECHO", "written")
    await peer.until(lambda: peer.echoes == [b"written"])
    queued = wire.send(0, "ECHO", "queued")
    wire.node_of(0).link.close("cut")
    assert isinstance(await outcome(written), OutcomeUnknown)
    assert isinstance(await outcome(queued), RedisUnavailable)
    assert peer.echoes == [b"written"]


async def test_closing_fails_what_is_in_flight(peer: Peer, wire: Wire) -> None:
    peer.obey_all_but(b"ECHO")
    written = wire.send(0, "ECHO", "x")
    await peer.until(lambda: peer.echoes == [b"x"])
    node = wire.node_of(0)
    await wire.close()
    assert isinstance(await outcome(written), OutcomeUnknown)
    with pytest.raises(RedisUnavailable, match="closed by this process"):
        wire.send(0, "ECHO", "y")
    with pytest.raises(RedisUnavailable, match="closed by this process"):
        await node.call("PING")
    wire.map_is_stale(node)  # as by a reply that crossed the closing
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_attempts_to_connect_are_spaced_further_and_further(
    peer: Peer, wire: Wire, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def record(delay_s: float) -> None:
        if delay_s != 0.1:  # that is the pause of the map's reader
            pauses.append(delay_s)
        await sleep(0)

    monkeypatch.setattr("holdfast.wire.asyncio.sleep", record)
    peer.behave = lambda session, command: session.transport.abort()
    wire.send(0, "ECHO", "x").cancel()
    await peer.until(lambda: len(peer.sessions) == 12)
    longest = [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert all(top / 2 <= pause <= top for pause, top in zip(pauses, longest, strict=False))
    assert len(pauses) in (10, 11)  # none before the first attempt; the last may be under way
    again = reconnection(wire)
    peer.behave = Session.obey
    await outcome(again)
    clock.advance(1.0)  # a life long enough to start anew
    pauses.clear()
    again = reconnection(wire)
    peer.sessions[-1].transport.abort()
    await outcome(again)
    assert pauses == []


async def test_refusals_name_the_latest_cause() -> None:
    async with listening() as peer:
        wire = Wire(f"redis://127.0.0.1:{peer.port}")
        await wire.connect()
    causes: set[str] = set()
    async with asyncio.timeout(PATIENCE_S):
        while not any(f"[Errno {errno.ECONNREFUSED}]" in cause for cause in causes):
            await asyncio.sleep(0)
            try:
                wire.send(0, "PING").cancel()
            except RedisUnavailable as error:
                causes.add(str(error))
    await wire.close()


async def test_connection_that_breaks_while_it_greets_is_made_again(peer: Peer, wire: Wire) -> None:
    again = reconnection(wire)

    def behave(session: Session, command: list[bytes]) -> None:
        session.obey(command)
        if len(peer.sessions) < 4:
            session.transport.write(b"+nobody asked\r\n")

    peer.behave = behave
    peer.sessions[0].transport.abort()
    await outcome(again)
    assert len(peer.sessions) == 4
    assert await wire.call(0, "ECHO", "x") == b"x"


async def test_closing_ends_the_attempts(peer: Peer, wire: Wire) -> None:
    peer.obey_all_but(b"CLIENT")
    peer.sessions[0].transport.abort()
    await peer.until(lambda: len(peer.sessions) == 2 and peer.received != [])
    await wire.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await peer.until(peer.sessions[1].transport.is_closing)


# A cluster that changes under way


class Members:
    """Peers that call themselves a cluster; the test says which of them has which slots."""

    def __init__(self, *peers: Peer) -> None:
        self.ports: list[tuple[int, int, int]] = []
        for peer in peers:
            peer.behave = self.behave

    def behave(self, session: Session, command: list[bytes]) -> None:
        if command[0] == b"HELLO":
            session.transport.write(b"*2\r\n$4\r\nmode\r\n$7\r\ncluster\r\n")
        elif command[0] == b"CLUSTER":
            rows = (
                b"*3\r\n:%d\r\n:%d\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % row for row in self.ports
            )
            session.transport.write(b"*%d\r\n%b" % (len(self.ports), b"".join(rows)))
        elif command[0] == b"GET":
            session.transport.write(b"-MOVED 1 127.0.0.1:1\r\n")
        elif command[0] != b"BLPOP":
            session.obey(command)


async def map_is_read(peer: Peer, wire: Wire) -> None:
    """Wait until the wire has asked `peer`, which serves slot 0, for the map, and taken it in."""
    await peer.until(lambda: [b"CLUSTER", b"SLOTS"] in peer.received)
    await wire.call(0, "PING")  # answered after that


async def test_node_without_slots_answers_what_it_has_and_is_let_go(peer: Peer) -> None:
    async with listening() as leaving:
        members = Members(peer, leaving)
        members.ports = [(0, 99, peer.port), (100, 16383, leaving.port)]
        async with connected(peer) as wire:
            node = wire.node_of(100)
            parked = wire.send(100, "BLPOP", "k", 0)
            members.ports = [(0, 16383, peer.port)]
            with pytest.raises(ServerError, match="MOVED"):
                await wire.call(0, "GET", "k")
            await map_is_read(peer, wire)
            assert wire.nodes() == [wire.node_of(0)]
            with pytest.raises(RedisUnavailable, match="serves no slots any more"):
                await node.call("PING")
            assert not parked.done()
            leaving.sessions[0].transport.write(b"+late but there\r\n")
            assert await outcome(parked) == b"late but there"
            await leaving.until(leaving.sessions[0].transport.is_closing)
            assert await wire.call(100, "ECHO", "x") == b"x"


async def test_node_let_go_is_closed_with_the_rest(peer: Peer) -> None:
    async with listening() as leaving:
        members = Members(peer, leaving)
        members.ports = [(0, 99, peer.port), (100, 16383, leaving.port)]
        async with connected(peer) as wire:
            parked = wire.send(100, "BLPOP", "k", 0)
            members.ports = [(0, 16383, peer.port)]
            with pytest.raises(ServerError, match="MOVED"):
                await wire.call(0, "GET", "k")
            await map_is_read(peer, wire)
        assert isinstance(await outcome(parked), OutcomeUnknown)
        await leaving.until(leaving.sessions[0].transport.is_closing)
        assert len(leaving.sessions) == 1


async def test_map_is_read_once_a_pause_however_many_ask(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: asyncio.Queue[float] = asyncio.Queue()
    go_on = asyncio.Semaphore(0)

    async def pause(delay_s: float) -> None:
        pauses.put_nowait(delay_s)
        await go_on.acquire()

    members = Members(peer)
    members.ports = [(0, 16383, peer.port)]
    async with connected(peer) as wire:

        async def refused_by_the_hundred() -> None:
            refused = [wire.send(0, "GET", "k") for _ in range(100)]
            outcomes = await asyncio.gather(*refused, return_exceptions=True)
            assert all(isinstance(error, ServerError) for error in outcomes)

        monkeypatch.setattr("holdfast.wire.asyncio.sleep", pause)
        for readings in (1, 2):
            await refused_by_the_hundred()
            assert await pauses.get() == 0.1
            await refused_by_the_hundred()
            await refused_by_the_hundred()
            assert peer.received.count([b"CLUSTER", b"SLOTS"]) == readings
            go_on.release()


async def test_slot_that_nobody_serves_is_refused_until_somebody_does(peer: Peer) -> None:
    members = Members(peer)
    assert "no slots assigned" in await refusal(Wire(f"redis://127.0.0.1:{peer.port}"))
    members.ports = [(0, 99, peer.port)]
    async with connected(peer) as wire:
        await map_is_read(peer, wire)
        assert await wire.call(99, "ECHO", "x") == b"x"
        with pytest.raises(RedisUnavailable, match="no primary serves this slot"):
            wire.send(100, "ECHO", "x")
        with pytest.raises(RedisUnavailable, match="slot 100"):
            wire.node_of(100)
        members.ports = [(0, 16383, peer.port)]
        peer.received.clear()
        await map_is_read(peer, wire)
        assert await wire.call(100, "ECHO", "x") == b"x"


async def test_map_is_asked_of_another_node_where_the_first_does_not_tell(peer: Peer) -> None:
    async with listening() as other:
        members = Members(peer, other)
        members.ports = [(0, 99, peer.port), (100, 16383, other.port)]
        async with connected(peer) as wire:
            peer.behave = lambda session, command: session.transport.write(b"-MOVED 1 x:1\r\n")
            members.ports = [(0, 16383, other.port)]
            with pytest.raises(ServerError, match="MOVED"):
                await wire.call(0, "GET", "k")
            await other.until(lambda: [b"CLUSTER", b"SLOTS"] in other.received)
            await wire.call(100, "PING")
            assert await wire.call(0, "ECHO", "x") == b"x"
            assert other.echoes == [b"x"]


async def test_cluster_that_moved_house_is_found_by_its_url(peer: Peer) -> None:
    async with listening() as new:
        async with listening() as old:
            members = Members(peer, old, new)
            members.ports = [(0, 16383, old.port)]
            wire = Wire(f"redis://127.0.0.1:{peer.port}")
            await wire.connect()
            assert await wire.call(0, "ECHO", "x") == b"x"
            # Who told where the slots are, and has none, is not kept.
            await peer.until(peer.sessions[0].transport.is_closing)
            again = reconnection(wire)
            members.ports = [(0, 16383, new.port)]
        async with asyncio.timeout(PATIENCE_S):
            assert (await again).address.port == new.port
        assert await wire.call(0, "ECHO", "y") == b"y"
        assert new.echoes == [b"y"]
        await wire.close()
