"""The wire against a real Valkey: order, loss and recovery, errors, a cluster that moves."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop
from redis.backoff import NoBackoff
from redis.retry import Retry

from holdfast.embedded import Valkey
from holdfast.wire import (
    Node,
    OutcomeUnknown,
    Overloaded,
    RedisUnavailable,
    ServerError,
    Wire,
    WireError,
    slot_of,
)

PATIENCE_S = 30.0  # bounds a wait for what comes sooner, so that a failure ends
TIMEOUT_MS = 20_000  # a busy machine may stand still for seconds
LOOPS = [
    pytest.param(asyncio.new_event_loop, id="asyncio"),
    pytest.param(uvloop.new_event_loop, id="uvloop"),
]


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[Wire]:
    wire = Wire(url, **{"timeout_ms": TIMEOUT_MS, "connect_timeout_ms": TIMEOUT_MS, **options})
    await wire.connect()
    try:
        yield wire
    finally:
        await wire.close()


@pytest.fixture
async def wire(valkey_server: Valkey) -> AsyncIterator[Wire]:
    async with connected(valkey_server.url) as wire:
        yield wire


@pytest.fixture
def own_server(server_dir: Path) -> Iterator[Valkey]:
    """A Valkey that may be killed."""
    with Valkey.start(server_dir / "valkey") as server:
        yield server


def reconnection(wire: Wire) -> asyncio.Future[Node]:
    done: asyncio.Future[Node] = asyncio.get_running_loop().create_future()

    def remember(node: Node) -> None:
        if not done.done():
            done.set_result(node)

    wire.on_reconnect = remember
    return done


async def until(probe: Callable[[], Awaitable[bool]]) -> None:
    """Repeat `probe` until it is true; a refusal counts as not yet."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                if await probe():
                    return
            except WireError:
                pass
            await asyncio.sleep(0.005)


# One server


async def everyone_gets_their_own(url: str) -> None:
    """10,000 callers at once, of whom a fifth is cancelled at any moment."""
    chance = random.Random(17)
    async with connected(url, max_in_flight=10_000) as wire:
        gate = asyncio.Event()

        async def caller(number: int) -> bytes:
            await gate.wait()
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            reply: bytes = await wire.call(0, "ECHO", number)
            return reply

        tasks = [asyncio.create_task(caller(number)) for number in range(10_000)]
        await asyncio.sleep(0)
        gate.set()
        victims = chance.sample(tasks, 2_000)
        while victims:
            await asyncio.sleep(0)
            for victim in victims[-100:]:
                victim.cancel()
            del victims[-100:]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        answers = [(number, it) for number, it in enumerate(outcomes) if isinstance(it, bytes)]
        assert len(answers) >= 8_000
        assert all(int(reply) == number for number, reply in answers)
        cancelled = [it for it in outcomes if isinstance(it, asyncio.CancelledError)]
        assert len(answers) + len(cancelled) == 10_000
        assert cancelled
        assert await wire.call(0, "ECHO", "last") == b"last"
        assert wire.in_flight == 0


async def killed_and_back(server: Valkey) -> None:
    """SIGKILL under load: nothing is answered wrongly, and a restart is enough to go on."""
    async with connected(server.url) as wire:
        back = reconnection(wire)
        served, refused = asyncio.Event(), asyncio.Event()

        async def caller(name: int) -> None:
            for round_ in count():
                if back.done():
                    return
                sent = b"%d:%d" % (name, round_)
                try:
                    assert await wire.call(0, "ECHO", sent) == sent
                    served.set()
                except RedisUnavailable:
                    refused.set()
                    await asyncio.sleep(0.001)
                except OutcomeUnknown:
                    pass

        callers = [asyncio.create_task(caller(name)) for name in range(32)]
        async with asyncio.timeout(PATIENCE_S):
            await served.wait()
            # The server answers nothing on this connection before this: it dies owing answers.
            parked = wire.send(0, "BLPOP", "wire:never", 0)
            await asyncio.to_thread(server.kill)
            with pytest.raises(OutcomeUnknown):
                await parked
            await refused.wait()
            await asyncio.to_thread(server.restart)
            assert await back is wire.node_of(0)
            await asyncio.gather(*callers)
        assert wire.traffic.reconnects == 1
        assert await wire.call(0, "ECHO", "back") == b"back"


async def stopped_and_continued(server: Valkey) -> None:
    """SIGSTOP: the connection stands and nothing answers, until SIGCONT."""
    async with connected(server.url, timeout_ms=100, connect_timeout_ms=100) as wire:
        back = reconnection(wire)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(OutcomeUnknown, match="no answer"):
                await wire.call(0, "ECHO", "x")

            async def refused() -> bool:
                try:
                    await wire.call(0, "PING")
                except RedisUnavailable:
                    return True
                return False

            await until(refused)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        async with asyncio.timeout(PATIENCE_S):
            await back
        await until(lambda: is_echoed(wire, 0))


@pytest.mark.parametrize("new_loop", LOOPS)
def test_replies_stay_with_their_callers(
    valkey_server: Valkey, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(everyone_gets_their_own(valkey_server.url))


@pytest.mark.parametrize("new_loop", LOOPS)
def test_kill_and_restart(
    own_server: Valkey, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(killed_and_back(own_server))


@pytest.mark.parametrize("new_loop", LOOPS)
def test_stop_and_continue(
    own_server: Valkey, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(stopped_and_continued(own_server))


async def test_one_write_a_tick(wire: Wire) -> None:
    before, sent = wire.traffic.writes, wire.traffic.sent
    for _ in range(20):
        await asyncio.gather(*(wire.call(0, "PING") for _ in range(256)))
    assert wire.traffic.writes - before == 20
    assert wire.traffic.sent - sent == 20 * 256


async def test_overload_is_refused_before_it_is_sent(valkey_server: Valkey) -> None:
    async with connected(valkey_server.url, max_in_flight=64) as wire:
        futures = [wire.send(0, "INCR", "wire:overload") for _ in range(64)]
        with pytest.raises(Overloaded):
            wire.send(0, "INCR", "wire:overload")
        assert max(await asyncio.gather(*futures)) == 64
        assert await wire.call(0, "GET", "wire:overload") == b"64"


async def test_reply_after_the_deadline_shifts_nobody(
    wire: Wire, valkey_server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, ahead_s = asyncio.get_running_loop(), 0.0
    now = loop.time
    late = wire.send(0, "BLPOP", "wire:late", 0)  # a reply that the test decides on
    waiting = wire.send(0, "ECHO", "waiting")
    await asyncio.sleep(0)
    monkeypatch.setattr(loop, "time", lambda: now() + ahead_s)
    ahead_s = 1.2 * TIMEOUT_MS / 1000
    with pytest.raises(OutcomeUnknown):
        await late
    with pytest.raises(OutcomeUnknown):
        await waiting
    after = wire.send(0, "ECHO", "after")
    async with connected(valkey_server.url) as other:
        await other.call(0, "RPUSH", "wire:late", "x")
    assert await after == b"after"
    assert await wire.call(0, "ECHO", "next") == b"next"
    assert wire.traffic.reconnects == 0


async def is_echoed(wire: Wire, slot: int) -> bool:
    return bool(await wire.call(slot, "ECHO", "x") == b"x")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("EVALSHA", "f" * 40, 0), "NOSCRIPT"),
        (("EVAL", "return redis.error_reply('FENCED by nonce')", 0), "FENCED"),
        (("EVAL", "return redis.call('INCR', KEYS[1])", 1, "wire:list"), "WRONGTYPE"),
        (("EVAL", "error('broken')", 0), "ERR"),
        (("NONSENSE",), "ERR"),
    ],
)
async def test_errors_of_the_server_carry_their_code(
    wire: Wire, command: tuple[str | int, ...], code: str
) -> None:
    await wire.call(0, "DEL", "wire:list")
    await wire.call(0, "RPUSH", "wire:list", "x")
    before, failed, after = wire.send(0, "PING"), wire.send(0, *command), wire.send(0, "PING")
    with pytest.raises(ServerError) as caught:
        await failed
    assert caught.value.code == code
    assert [await before, await after] == [b"PONG", b"PONG"]


async def test_memory_that_is_out_has_its_code(own_server: Valkey) -> None:
    async with connected(own_server.url) as wire:
        await wire.call(0, "CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(ServerError) as caught:
            await wire.call(0, "EVAL", "#!lua\nreturn 1", 0)
        assert caught.value.code == "OOM"


async def test_least_privilege_user_may_connect(valkey_server: Valkey, wire: Wire) -> None:
    await wire.call(0, "ACL", "SETUSER", "api", "reset", "on", ">s3cret", "-@all", "+hello|ping")
    await wire.call(0, "ACL", "SETUSER", "api", "+hello", "+ping")
    url = valkey_server.url.replace("//", "//api:s3cret@")
    async with connected(url) as limited:
        assert await limited.call(0, "PING") == b"PONG"
        with pytest.raises(ServerError) as caught:
            await limited.call(0, "GET", "x")
        assert caught.value.code == "NOPERM"
    stranger = Wire(url.replace("s3cret", "wrong"))
    with pytest.raises(RedisUnavailable, match="WRONGPASS"):
        await stranger.connect()
    await stranger.close()


async def test_unix_socket_and_database(server_dir: Path) -> None:
    path = server_dir / "valkey.sock"
    with Valkey.start(server_dir / "valkey", extra_args=("--unixsocket", str(path))) as server:
        async with connected(f"unix://{path}?db=3", name="by-socket") as wire:
            await wire.call(0, "SET", "k", "v")
            assert b" name=by-socket " in await wire.call(0, "CLIENT", "INFO")
        async with connected(server.url.removesuffix("0") + "3") as wire:
            assert await wire.call(0, "GET", "k") == b"v"


# A cluster

RANGES = ((0, 5460), (5461, 10922), (10923, 16383))
CLUSTER_OPTIONS = (
    *("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"),
    *("--cluster-node-timeout", "5000"),
)


class Cluster:
    """Three primaries that share the slots; one may be down without stopping the others."""

    def __init__(self, servers: list[Valkey]) -> None:
        self.servers = servers
        self.clients = [
            redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0)) for server in servers
        ]
        for number, slots in enumerate(RANGES):
            self.ask(number, "CLUSTER SET-CONFIG-EPOCH", number + 1)
            self.ask(number, "CLUSTER ADDSLOTSRANGE", *slots)
            self.ask(number, "CLUSTER MEET", "127.0.0.1", servers[0].port)
        self.ids = [self.ask(number, "CLUSTER MYID").decode() for number in range(3)]

    @property
    def url(self) -> str:
        return self.servers[0].url

    def ask(self, number: int, *command: str | int) -> Any:
        """Ask one node, not by the wire: what is under test must not vouch for itself."""
        return self.clients[number].execute_command(*command)  # type: ignore[no-untyped-call]

    def is_formed(self) -> bool:
        """Whether each node knows all three, and serves."""
        infos = [self.ask(number, "CLUSTER INFO") for number in range(3)]
        return all(info["cluster_state"] == "ok" and info["cluster_size"] == "3" for info in infos)

    def move(self, slot: int, to: int) -> None:
        """Give an empty slot to another node; every node learns of it at once."""
        for number in (to, *(other for other in range(3) if other != to)):
            self.ask(number, "CLUSTER SETSLOT", slot, "NODE", self.ids[to])

    def maps_read(self) -> int:
        """How often CLUSTER SLOTS was asked, over all nodes."""
        stats = [self.ask(number, "INFO", "commandstats") for number in range(3)]
        return sum(int(it.get("cmdstat_cluster|slots", {}).get("calls", 0)) for it in stats)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp("cluster")
        servers = [
            stack.enter_context(Valkey.start(directory / name, extra_args=CLUSTER_OPTIONS))
            for name in ("a", "b", "c")
        ]
        cluster = Cluster(servers)
        for client in cluster.clients:
            stack.callback(client.close)
        deadline = time.monotonic() + PATIENCE_S
        while not cluster.is_formed():
            assert time.monotonic() < deadline, "the nodes did not find each other"
            time.sleep(0.01)
        yield cluster


async def test_calls_find_the_primary_of_their_slot(cluster: Cluster) -> None:
    async with connected(cluster.servers[1].url) as wire:
        keys = [f"wire:{{{number}}}" for number in range(300)]
        sends = [wire.send(slot_of(key), "SET", key, key) for key in keys]
        assert set(await asyncio.gather(*sends)) == {b"OK"}
        assert {str(node.address): node.slots for node in wire.nodes()} == {
            f"127.0.0.1:{server.port}": [slots]
            for server, slots in zip(cluster.servers, RANGES, strict=True)
        }
        for node in wire.nodes():
            held = await node.call("KEYS", "wire:*")
            assert {wire.node_of(slot_of(key)) for key in held} == {node}
            assert await node.call("PING") == b"PONG"


async def test_slot_that_moved_is_refused_and_then_found(cluster: Cluster) -> None:
    key = "wire:{moving}"
    slot = slot_of(key)
    async with connected(cluster.url) as wire:
        old = wire.node_of(slot)
        assert await wire.call(slot, "GET", key) is None
        source = next(n for n, (first, last) in enumerate(RANGES) if first <= slot <= last)
        maps, started = cluster.maps_read(), time.monotonic()
        await asyncio.to_thread(cluster.move, slot, (source + 1) % 3)
        outcomes = await asyncio.gather(
            *(wire.call(slot, "INCR", key) for _ in range(500)), return_exceptions=True
        )
        assert {it.code for it in outcomes if isinstance(it, ServerError)} == {"MOVED"}
        assert len(outcomes) == sum(isinstance(it, ServerError) for it in outcomes)
        await until(lambda: is_written(wire, key))
        assert wire.node_of(slot) is not old
        # None of the refused calls was repeated behind its caller's back.
        assert await wire.call(slot, "GET", key) == b"written"
        # 500 refusals, one reader, ten maps a second at most.
        passed_s = time.monotonic() - started
        assert 1 <= cluster.maps_read() - maps <= 2 + passed_s * 10


async def is_written(wire: Wire, key: str) -> bool:
    """Write `key`, which must not exist."""
    return bool(await wire.call(slot_of(key), "SET", key, "written", "NX") == b"OK")


async def test_slot_on_its_way_answers_ask(cluster: Cluster) -> None:
    slot = slot_of("wire:{asking}")
    source = next(n for n, (first, last) in enumerate(RANGES) if first <= slot <= last)
    other = (source + 1) % 3
    async with connected(cluster.url) as wire:
        cluster.ask(other, "CLUSTER SETSLOT", slot, "IMPORTING", cluster.ids[source])
        cluster.ask(source, "CLUSTER SETSLOT", slot, "MIGRATING", cluster.ids[other])
        with pytest.raises(ServerError) as caught:
            await wire.call(slot, "GET", "wire:{asking}")
        assert caught.value.code == "ASK"
        for number in (source, other):
            cluster.ask(number, "CLUSTER SETSLOT", slot, "STABLE")
        assert await wire.call(slot, "GET", "wire:{asking}") is None


async def test_one_node_down_leaves_the_others_alone(cluster: Cluster) -> None:
    async with connected(cluster.url) as wire:
        back = reconnection(wire)
        victim = cluster.servers[2]
        slots = [first for first, _ in RANGES]
        await asyncio.to_thread(victim.kill)

        async def is_refused() -> bool:
            try:
                await wire.call(slots[2], "PING")
            except RedisUnavailable:
                return True
            return False

        await until(is_refused)
        for _ in range(100):
            assert await wire.call(slots[0], "PING") == b"PONG"
            assert await wire.call(slots[1], "PING") == b"PONG"
        async with connected(cluster.url) as late:  # a new process starts all the same
            assert await late.call(slots[0], "PING") == b"PONG"
            with pytest.raises(RedisUnavailable):
                late.send(slots[2], "PING")
        await asyncio.to_thread(victim.restart)
        async with asyncio.timeout(PATIENCE_S):
            node = await back
        assert node.address.port == victim.port
        assert await node.call("PING") == b"PONG"
