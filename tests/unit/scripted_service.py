"""A small real HTTP server that gives scripted answers and remembers what it was asked."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

Message = MutableMapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """One request as it arrived; `at_s` by the monotonic clock, `port` the caller's."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any
    at_s: float
    port: int

    @property
    def key(self) -> str | None:
        return self.headers.get("idempotency-key")


@dataclass(frozen=True)
class Reply:
    """An answer. `half` sends the beginning of it and hangs up; `never` sends nothing."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    half: bool = False
    never: bool = False


def problem(status: int, code: str, *, retryable: bool = False, **more: Any) -> Reply:
    """A problem document as the service writes them."""
    headers = {"content-type": "application/problem+json", **more.pop("headers", {})}
    document = {
        "type": f"/problems/{code}",
        "title": code.replace("_", " "),
        "status": status,
        "detail": f"because of {code}",
        "code": code,
        "request_id": "req-1",
        "retryable": retryable,
    }
    return Reply(status, document | more, headers)


def hold_answer(**fields: Any) -> dict[str, Any]:
    """A hold as the service answers it."""
    return {
        "id": "job-1",
        "account": "acme",
        "member": None,
        "state": "held",
        "amount": 40,
        "committed": 0,
        "remaining": 40,
        "uncollected": 0,
        "late": False,
        "created_at": "2026-11-20T07:00:00.123Z",
        "expires_at": "2026-11-20T07:15:00.123Z",
        "available": 60,
        "held": 40,
        "version": 3,
        "durability": "local",
        "metadata": None,
    } | fields


class ScriptedService:
    """Answers each request with the next scripted reply; what it was asked is in `asked`.

    Without a script left, the answer is a hold in the state that the route leads to.
    """

    def __init__(self) -> None:
        self.url = ""
        self._more = threading.Condition()
        self.forget()

    def forget(self) -> None:
        """Begin anew: nothing was asked, nothing is scripted."""
        self.asked: list[Asked] = []
        self.script: deque[Reply] = deque()
        self.on_ask: Callable[[Asked], Reply | None] = lambda asked: None

    def will_answer(self, *replies: Reply) -> None:
        self.script.extend(replies)

    def wait_for(self, count: int, path_end: str = "", timeout_s: float = 20.0) -> None:
        """Block until `count` requests to paths with this ending have arrived."""
        with self._more:
            arrived = self._more.wait_for(
                lambda: len([each for each in self.asked if each.path.endswith(path_end)]) >= count,
                timeout_s,
            )
        assert arrived, f"{count} requests to …{path_end} were expected, had {self.asked}"

    def _reply(self, asked: Asked) -> Reply:
        with self._more:
            self.asked.append(asked)
            self._more.notify_all()
        chosen = self.on_ask(asked)
        if chosen is not None:
            return chosen
        if self.script:
            return self.script.popleft()
        states = {"commit": "committed", "release": "released"}
        state = states.get(asked.path.rsplit("/", 1)[-1], "held")
        return Reply(200, hold_answer(state=state))

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
            return
        text = b""
        more = True
        while more:
            message = await receive()
            text += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        asked = Asked(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode(),
            headers=headers,
            body=json.loads(text) if text else None,
            at_s=time.monotonic(),
            port=scope["client"][1],
        )
        reply = self._reply(asked)
        if reply.never:
            # Ends when the caller hangs up.
            await receive()
            return
        is_text = isinstance(reply.body, str)
        content = reply.body.encode() if is_text else json.dumps(reply.body).encode()
        sent = {"content-type": "text/html" if is_text else "application/json"} | reply.headers
        sent["content-length"] = str(len(content) + (100 if reply.half else 0))
        await send(
            {
                "type": "http.response.start",
                "status": reply.status,
                "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
            }
        )
        await send({"type": "http.response.body", "body": content, "more_body": reply.half})


@contextmanager
def running_service() -> Iterator[ScriptedService]:
    """A scripted service on a free port of 127.0.0.1, ended afterwards."""
    service = ScriptedService()
    # Listening before the server runs: whoever connects meanwhile waits instead of being refused.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        service.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            service,
            log_level="critical",
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield service
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
