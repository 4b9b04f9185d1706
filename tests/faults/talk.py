"""What the tests of the fault proxy talk through it with, and wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from holdfast.embedded import Valkey
from tests.faults.proxy import HOST, FaultProxy, Rule

PATIENCE_S = 20.0  # bounds a wait for what comes in milliseconds, so that a failure ends


class Talk:
    """A client's connection, which shows bytes and resets as they come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, command: str) -> None:
        self.writer.write(f"{command}\r\n".encode())

    async def ask(self, command: str, answer: str) -> None:
        self.send(command)
        await self.hears(answer)

    async def hears(self, answer: str) -> None:
        expected = answer.encode() + b"\r\n"
        async with asyncio.timeout(PATIENCE_S):
            assert await self.reader.readexactly(len(expected)) == expected

    async def rest(self) -> tuple[bytes, str]:
        """All that still comes, and how the connection ended: `end` or `reset`."""
        heard = b""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while piece := await self.reader.read(65_536):
                    heard += piece
            except ConnectionResetError:
                return heard, "reset"
        return heard, "end"


@asynccontextmanager
async def talking(port: int) -> AsyncIterator[Talk]:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        yield Talk(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def proxied(server: Valkey, seed: int = 0) -> AsyncIterator[tuple[FaultProxy, Redis]]:
    """A proxy, and a client that goes past it."""
    async with (
        FaultProxy((HOST, server.port), seed=seed) as proxy,
        Redis(port=server.port, decode_responses=True, socket_timeout=PATIENCE_S) as direct,
    ):
        yield proxy, direct


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.005)


async def gone(proxy: FaultProxy) -> None:
    async def nobody() -> bool:
        return proxy.live == 0

    await until(nobody)


async def stalled(proxy: FaultProxy) -> None:
    async def somebody() -> bool:
        return proxy.stalled > 0

    await until(somebody)


async def listed(direct: Redis, name: str) -> list[str]:
    """The ids of the connections with this name that the server has."""
    return [each["id"] for each in await direct.client_list() if each["name"] == name]


async def struck(rule: Rule) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await rule.struck.wait()
