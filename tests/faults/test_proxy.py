"""The fault proxy in front of a real Valkey: each fault does what it says, and nothing else."""

from __future__ import annotations

import asyncio
import secrets

import pytest

from holdfast.embedded import Valkey
from tests.faults.proxy import HOST, FaultProxy, Rule
from tests.faults.talk import PATIENCE_S, Talk, gone, listed, proxied, struck, talking, until


@pytest.fixture
def name() -> str:
    """A word that no other test uses, as a key or as the name of a connection."""
    return f"proxy-{secrets.token_hex(8)}"


async def test_a_dropped_request_is_never_executed_and_nothing_follows_it(
    valkey_server: Valkey, name: str
) -> None:
    async with proxied(valkey_server) as (proxy, direct):
        async with talking(proxy.port) as talk, talking(proxy.port) as other:
            await talk.ask(f"CLIENT SETNAME {name}", "+OK")
            await other.ask("PING", "+PONG")
            proxy.rule = rule = Rule("drop-request", at_most=1)
            talk.send(f"INCR {name}")
            await struck(rule)
            assert await listed(direct, name), "the connection is not kept open"
            await other.ask(f"INCR {name}", ":1")
            talk.send(f"INCR {name}")
            talk.writer.close()
            assert await talk.rest() == (b"", "end")
        await gone(proxy)  # so that all that was sent has been looked at
        assert rule.strikes == 1
        assert await direct.getdel(name) == "1"


async def test_a_dropped_request_may_leave_half_of_it_at_the_server(
    valkey_server: Valkey, name: str
) -> None:
    seen = set()
    async with proxied(valkey_server) as (proxy, direct):
        for number in range(20):
            async with talking(proxy.port) as talk:
                proxy.rule = Rule()
                await talk.ask(f"CLIENT SETNAME {name}-{number}", "+OK")
                proxy.rule = rule = Rule("drop-request")
                talk.send(f"SET {name} {'x' * 1000}")
                await struck(rule)

                async def waiting(of: str = f"{name}-{number}") -> bool:
                    (mine,) = [each for each in await direct.client_list() if each["name"] == of]
                    seen.add(int(mine["qbuf"]))
                    return int(mine["qbuf"]) > 0

                await until(waiting)
        assert await direct.get(name) is None
    assert len(seen - {0}) > 5, f"bytes of half requests: {sorted(seen)}"


async def test_after_a_dropped_reply_requests_arrive_and_no_reply_does(
    valkey_server: Valkey, name: str
) -> None:
    async with proxied(valkey_server) as (proxy, direct), talking(proxy.port) as talk:
        await talk.ask("PING", "+PONG")
        proxy.rule = rule = Rule("drop-reply", at_most=1)
        talk.send(f"LPUSH {name} one")
        await struck(rule)
        talk.send(f"LPUSH {name} two")
        for value in ("one", "two"):
            assert await direct.brpop([name], timeout=PATIENCE_S) == (name, value)
        proxy.cut_all()
        assert await talk.rest() == (b"", "reset")


async def test_a_half_open_connection_hides_the_end_of_the_client(
    valkey_server: Valkey, name: str
) -> None:
    async with proxied(valkey_server) as (proxy, direct):
        async with talking(proxy.port) as talk:
            await talk.ask(f"CLIENT SETNAME {name}", "+OK")
            proxy.rule = rule = Rule("half-open")
            talk.send(f"INCR {name}")
            await struck(rule)

        async def abandoned() -> bool:
            return len(proxy.abandoned) == 1

        await until(abandoned)
        assert await listed(direct, name), "the server learned that the client has gone"
        assert await direct.get(name) is None
        proxy.cut_all()
        await gone(proxy)
        assert not proxy.abandoned

        async def unlisted() -> bool:
            return not await listed(direct, name)

        await until(unlisted)


async def test_a_half_open_connection_hides_the_end_of_the_server(
    valkey_server: Valkey, name: str
) -> None:
    async with proxied(valkey_server) as (proxy, direct), talking(proxy.port) as talk:
        await talk.ask(f"CLIENT SETNAME {name}", "+OK")
        proxy.rule = rule = Rule("half-open", at_most=1)
        talk.send("PING")
        await struck(rule)
        (number,) = await listed(direct, name)
        await direct.client_kill_filter(_id=number)

        async def abandoned() -> bool:
            return len(proxy.abandoned) == 1

        await until(abandoned)
        assert not talk.reader.at_eof()
        proxy.cut_all()
        assert await talk.rest() == (b"", "reset")


async def test_half_open_connections_do_not_take_all_places_of_a_server(
    valkey_server: Valkey,
) -> None:
    async with proxied(valkey_server) as (proxy, _):
        proxy.rule = rule = Rule("half-open")
        for number in range(1, 41):
            async with talking(proxy.port) as talk:
                talk.send("PING")

                async def lost(count: int = number) -> bool:
                    return rule.strikes == count

                await until(lost)

        async def bounded() -> bool:
            return proxy.live == 32 == len(proxy.abandoned)

        await until(bounded)


async def test_a_delay_holds_request_and_reply(valkey_server: Valkey) -> None:
    async with proxied(valkey_server) as (proxy, _), talking(proxy.port) as talk:
        await talk.ask("PING", "+PONG")
        proxy.rule = rule = Rule("delay", delay_ms=50)
        clock = asyncio.get_running_loop().time
        began = clock()
        await talk.ask("PING", "+PONG")
        assert clock() - began >= 0.099
        assert rule.strikes == 2


async def test_what_is_delayed_stays_in_order_and_precedes_the_end(valkey_server: Valkey) -> None:
    expected = b""
    async with proxied(valkey_server, seed=3) as (proxy, _), talking(proxy.port) as talk:
        proxy.rule = rule = Rule("delay", chance=0.3, delay_ms=2)
        for number in range(1000, 1400):
            talk.send(f"ECHO {number}")
            expected += b"$4\r\n%d\r\n" % number
            await asyncio.sleep(0)  # a piece each, and the proxy's turn
        talk.send("PING")
        await talk.hears((expected + b"+PONG").decode())
        assert rule.strikes > 10
        proxy.rule = Rule("delay", delay_ms=20)
        talk.send("QUIT")
        assert await talk.rest() == (b"+OK\r\n", "end")


async def test_a_reply_is_cut_in_its_middle_and_both_ends_are_reset(
    valkey_server: Valkey, name: str
) -> None:
    reply = b"$1000\r\n" + b"x" * 1000 + b"\r\n"
    lengths = set()
    async with proxied(valkey_server) as (proxy, direct):
        await direct.set(name, "x" * 1000)
        proxy.rule = rule = Rule("cut-reply")
        for _ in range(20):
            async with talking(proxy.port) as talk:
                talk.send(f"GET {name}")
                heard, ended = await talk.rest()
                assert ended == "reset"
                assert reply.startswith(heard)
                lengths.add(len(heard))
        assert rule.strikes == 20
        await gone(proxy)
        await direct.delete(name)
    assert max(lengths) < len(reply)
    assert len(lengths) > 10, f"bytes of half replies: {sorted(lengths)}"


async def test_new_connections_are_refused_and_old_ones_left_alone(valkey_server: Valkey) -> None:
    async with proxied(valkey_server) as (proxy, _), talking(proxy.port) as old:
        await old.ask("PING", "+PONG")
        proxy.rule = rule = Rule("refuse")
        async with talking(proxy.port) as new:
            assert await new.rest() == (b"", "reset")
        await old.ask("PING", "+PONG")
        assert rule.strikes == 1
        proxy.rule = Rule()
        async with talking(proxy.port) as new:
            await new.ask("PING", "+PONG")


async def test_cutting_all_resets_both_ends() -> None:
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = Talk(reader, writer)
        talk.send("hello")
        ended.set_result((await talk.rest())[1])
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0)
    target = (HOST, server.sockets[0].getsockname()[1])
    async with server, FaultProxy(target) as proxy, talking(proxy.port) as talk:
        await talk.hears("hello")
        proxy.cut_all()
        assert await talk.rest() == (b"", "reset")
        async with asyncio.timeout(PATIENCE_S):
            assert await ended == "reset"
