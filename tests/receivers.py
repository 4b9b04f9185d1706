"""A receiver of events: an HTTP server of a test's own, which keeps what it is sent.

async with Receiver() as receiver:
    receiver.answers = [500, 200]       # then 200 for ever
    ...
    await until(lambda: len(receiver.posts) == 2)
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import orjson
import uvicorn


@dataclass(frozen=True)
class Post:
    """One request, as it arrived. Names of headers are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def document(self) -> Any:
        return orjson.loads(self.body)


class Receiver:
    """Listens on a free port of 127.0.0.1."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.answers: list[int] = []
        """Statuses of the next requests; after the last one every answer is 200."""
        self.location = ""
        """Where an answer redirects to, if it does."""
        self.held: asyncio.Event | None = None
        """If set, nothing is answered before it happens."""

    async def __aenter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        options = uvicorn.Config(self._serve, interface="asgi3", lifespan="off", log_level="error")
        self._server = uvicorn.Server(options)
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.01)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.held is not None:
            self.held.set()
        self._server.should_exit = True
        await self._serving
        self._listener.close()

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        self.posts.append(Post(scope["path"], headers, body))
        if self.held is not None:
            await self.held.wait()
        status = self.answers.pop(0) if self.answers else 200
        lines = [(b"location", self.location.encode())] if self.location else []
        await send({"type": "http.response.start", "status": status, "headers": lines})
        await send({"type": "http.response.body", "body": b"thanks"})
