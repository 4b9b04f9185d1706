"""The API over a stack's stores, served by uvicorn as in production, and clients of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import uvicorn

from holdfast import api_keys
from holdfast.http.app import build_app
from tests.stack import Stack

_START_S = 20


@asynccontextmanager
async def serving(stack: Stack, **options: Any) -> AsyncIterator[str]:
    """The URL of the API on a free port; `options` are uvicorn's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = {"log_level": "warning", "access_log": False, **options}
        server = uvicorn.Server(uvicorn.Config(build_app(stack.config), **settings))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with asyncio.timeout(_START_S), httpx2.AsyncClient(base_url=url) as client:
            while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        yield url
        server.should_exit = True
        await task


@asynccontextmanager
async def logged_in(
    stack: Stack, url: str, *scopes: str, accounts: str | None = None
) -> AsyncIterator[tuple[str, httpx2.AsyncClient]]:
    """Id of a new API key (of all scopes, if none is named), and a client that uses it."""
    wanted: Sequence[str] = scopes or api_keys.SCOPES
    key, token = await api_keys.create(stack.pool, "test", wanted, accounts)
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=20) as client:
        yield key.id, client


async def post(client: httpx2.AsyncClient, path: str, key: str | None = None, **body: Any) -> Any:
    """The answer to a POST that succeeds."""
    reply = await client.post(path, json=body, headers={"Idempotency-Key": key} if key else {})
    assert reply.status_code in (200, 201), reply.text
    return reply.json()
