"""The fault proxy without a fault, what its rules are good for, and how it begins and ends."""

from __future__ import annotations

import asyncio
import secrets
import threading
from pathlib import Path
from typing import cast

import pytest
from redis.asyncio import Redis

from holdfast.embedded import Valkey
from tests.faults.proxy import HOST, FaultProxy, Rule
from tests.faults.talk import PATIENCE_S, gone, proxied, stalled, struck, talking


@pytest.fixture
def name() -> str:
    """A word that no other test uses, as a key or as the name of a connection."""
    return f"proxy-{secrets.token_hex(8)}"


# ── without a fault ──────────────────────────────────────────────────────────────────────────────


async def test_every_byte_passes_both_ways_also_where_the_other_end_is_slow(
    valkey_server: Valkey, name: str
) -> None:
    value = secrets.token_bytes(8 * 1024 * 1024)
    async with proxied(valkey_server) as (proxy, direct), talking(proxy.port) as talk:
        talk.send(f"*3\r\n$3\r\nSET\r\n${len(name)}\r\n{name}\r\n${len(value)}")
        talk.writer.write(value + b"\r\n")
        await talk.hears("+OK")
        talk.send(f"GET {name}")
        await talk.hears(f"${len(value)}")
        # Only now, after what a socket and the proxy buffer is full, is it read.
        async with asyncio.timeout(PATIENCE_S):
            assert await talk.reader.readexactly(len(value)) == value
        await talk.hears("")
        await direct.delete(name)


async def test_an_orderly_end_of_the_server_comes_after_its_last_byte(
    valkey_server: Valkey,
) -> None:
    async with proxied(valkey_server) as (proxy, _), talking(proxy.port) as talk:
        talk.send("PING")
        talk.send("QUIT")
        assert await talk.rest() == (b"+PONG\r\n+OK\r\n", "end")
        talk.writer.close()
        await gone(proxy)


async def test_an_orderly_end_of_the_client_comes_after_its_last_byte(
    valkey_server: Valkey, name: str
) -> None:
    async with proxied(valkey_server) as (proxy, direct):
        async with talking(proxy.port) as talk:
            talk.send(f"LPUSH {name} last")
            talk.writer.close()
            assert await direct.blpop([name], timeout=PATIENCE_S) == (name, "last")
        await gone(proxy)


async def test_a_client_of_a_server_that_is_away_is_reset(server_dir: Path) -> None:
    with Valkey.start(server_dir / "valkey") as server:
        port = server.port
    async with FaultProxy((HOST, port)) as proxy, talking(proxy.port) as talk:
        assert await talk.rest() == (b"", "reset")
        await gone(proxy)


async def test_another_target_holds_for_new_connections(
    valkey_server: Valkey, server_dir: Path, name: str
) -> None:
    async with proxied(valkey_server) as (proxy, direct), talking(proxy.port) as old:
        await old.ask(f"SET {name} old", "+OK")
        with Valkey.start(server_dir / "valkey") as other:
            proxy.target = (HOST, other.port)
            async with talking(proxy.port) as new:
                await new.ask(f"GET {name}", "$-1")
                await old.ask(f"GET {name}", "$3\r\nold")
        await direct.delete(name)


# ── rules ────────────────────────────────────────────────────────────────────────────────────────


async def answered_until_cut(server: Valkey, seed: int) -> list[int]:
    """How many requests each of some connections has answered, before a reply is cut."""
    counts = []
    async with proxied(server, seed) as (proxy, _):
        proxy.rule = Rule("cut-reply", chance=0.1)
        for _ in range(15):
            async with talking(proxy.port) as talk:
                count, heard = 0, b""
                while True:
                    talk.send("PING")
                    try:
                        async with asyncio.timeout(PATIENCE_S):
                            heard = await talk.reader.readexactly(7)
                    except (ConnectionResetError, asyncio.IncompleteReadError):
                        break
                    assert heard == b"+PONG\r\n"
                    count += 1
            counts.append(count)
    return counts


async def test_a_seed_repeats_what_the_connections_suffer(valkey_server: Valkey) -> None:
    first = await answered_until_cut(valkey_server, seed=1)
    assert await answered_until_cut(valkey_server, seed=1) == first
    assert await answered_until_cut(valkey_server, seed=2) != first
    assert len(set(first)) > 3


async def test_a_rule_strikes_at_most_so_often(valkey_server: Valkey) -> None:
    async with proxied(valkey_server) as (proxy, _):
        proxy.rule = rule = Rule("cut-reply", at_most=2)
        for _ in range(2):
            async with talking(proxy.port) as talk:
                talk.send("PING")
                assert (await talk.rest())[1] == "reset"
        async with talking(proxy.port) as talk:
            await talk.ask("PING", "+PONG")
        assert rule.strikes == 2


def test_rules_that_make_no_sense_are_refused() -> None:
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="a chance is 0 to 1"):
            Rule("drop-reply", chance=wrong)
    with pytest.raises(ValueError, match="delay_ms"):
        Rule("delay")
    with pytest.raises(ValueError, match="delay_ms"):
        Rule("drop-reply", delay_ms=5)


# ── life ─────────────────────────────────────────────────────────────────────────────────────────


async def test_it_closes_whatever_its_connections_wait_for(
    valkey_server: Valkey, name: str
) -> None:
    """In turn: a client that does not read, a half-open one, a delayed one, and one at the door."""
    proxy = FaultProxy((HOST, valkey_server.port))
    await proxy.start()
    port = proxy.port
    async with (
        Redis(port=valkey_server.port) as direct,
        talking(port) as full,
        talking(port) as dead,
        talking(port) as late,
    ):
        await direct.set(name, b"x" * 30_000_000)  # more than sockets and the proxy hold
        cast(asyncio.Transport, full.writer.transport).pause_reading()
        full.send(f"GET {name}")
        await stalled(proxy)
        for talk, rule in ((dead, Rule("half-open")), (late, Rule("delay", delay_ms=3_600_000))):
            proxy.rule = rule
            talk.send("PING")
            await struck(rule)
        async with asyncio.timeout(PATIENCE_S):
            while proxy.stalled < 2:  # nor is more of a delayed one taken than so much
                late.send("PING")
                await asyncio.sleep(0)
        async with talking(port) as door:
            await proxy.close()
            assert proxy.live == 0
            for talk in (dead, late, door):
                assert await talk.rest() == (b"", "reset")
        await direct.delete(name)

        await proxy.close()  # once more is no harm
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(HOST, port)
        proxy.rule = Rule()
        await proxy.start()
        assert proxy.port == port
        async with talking(port) as talk:
            await talk.ask("PING", "+PONG")
        await proxy.close()


async def test_it_runs_in_a_thread_and_is_ruled_from_another(valkey_server: Valkey) -> None:
    """The rule is set here, while the proxy runs in a loop of its own."""
    proxy = FaultProxy((HOST, valkey_server.port))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(proxy.start(), loop))
        async with talking(proxy.port) as talk:
            await talk.ask("PING", "+PONG")
            proxy.rule = rule = Rule("cut-reply")
            talk.send("PING")
            assert (await talk.rest())[1] == "reset"
        assert rule.strikes == 1
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(proxy.close(), loop))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
