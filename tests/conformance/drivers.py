"""Two ways to the same ledger, with one set of answers: over HTTP, and in process.

A driver answers an Outcome: the HTTP status, the problem's code, the body. In process, a result has
the status that HTTP would give it, and a refusal is its error.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any, Protocol

import httpx2

from holdfast.errors import HoldfastError
from holdfast.ledger import Ledger
from holdfast.model import Context

_keys = count(1)


@dataclass
class Outcome:
    """What came of one call."""

    status: int
    body: dict[str, Any] = field(default_factory=dict)
    replayed: bool = False

    @property
    def code(self) -> str | None:
        return self.body.get("code")

    @property
    def ok(self) -> bool:
        return self.status < 300

    def __getattr__(self, name: str) -> Any:
        try:
            return self.body[name]
        except KeyError:
            raise AttributeError(f"{name} is not in {self.body}") from None

    @property
    def funds(self) -> tuple[int, int]:
        """available/held, as the scenarios write it."""
        return self.body["available"], self.body["held"]


class Driver(Protocol):
    """The calls of the contract. `**body` is the JSON body; what is left out is not sent."""

    async def open(self, account: str, **body: Any) -> Outcome: ...
    async def account(self, account: str) -> Outcome: ...
    async def put_member(self, account: str, member: str, **body: Any) -> Outcome: ...
    async def member(self, account: str, member: str) -> Outcome: ...
    async def grant(
        self, account: str, amount: Any, key: str | None = None, **body: Any
    ) -> Outcome: ...
    async def reserve(self, account: str, key: str | None, **body: Any) -> Outcome: ...
    async def hold(self, account: str, hold: str) -> Outcome: ...
    async def commit(
        self, account: str, hold: str, key: str | None = None, **body: Any
    ) -> Outcome: ...
    async def release(
        self, account: str, hold: str, key: str | None = None, **body: Any
    ) -> Outcome: ...
    async def extend(
        self, account: str, hold: str, key: str | None = None, **body: Any
    ) -> Outcome: ...
    async def charge(self, account: str, key: str, **body: Any) -> Outcome: ...
    async def refund(self, account: str, key: str, **body: Any) -> Outcome: ...
    async def adjust(self, account: str, key: str, **body: Any) -> Outcome: ...


class HttpDriver:
    """The public contract over a real socket."""

    name = "http"

    def __init__(self, url: str, api_key: str) -> None:
        self._client = httpx2.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {api_key}"}, timeout=10
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def ready(self) -> None:
        """Until the service says that it serves."""
        for _ in range(500):  # 10 s
            if (await self._client.get("/readyz")).status_code == 200:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the API does not become ready")

    async def raw(
        self, method: str, path: str, content: bytes | None, key: str | None = None
    ) -> Outcome:
        headers = {"Idempotency-Key": key} if key is not None else {}
        reply = await self._client.request(method, path, content=content, headers=headers)
        body = json.loads(reply.content) if reply.content else {}
        return Outcome(reply.status_code, body, reply.headers.get("Idempotency-Replayed") == "true")

    async def _send(self, method: str, path: str, body: Any, key: str | None = None) -> Outcome:
        content = None if body is None else json.dumps(body).encode()
        return await self.raw(method, f"/v1/accounts/{path}", content, key)

    async def open(self, account: str, **body: Any) -> Outcome:
        return await self._send("PUT", account, body)

    async def account(self, account: str) -> Outcome:
        return await self._send("GET", account, None)

    async def put_member(self, account: str, member: str, **body: Any) -> Outcome:
        return await self._send("PUT", f"{account}/members/{member}", body)

    async def member(self, account: str, member: str) -> Outcome:
        return await self._send("GET", f"{account}/members/{member}", None)

    async def grant(
        self, account: str, amount: Any, key: str | None = None, **body: Any
    ) -> Outcome:
        key = key or f"grant-{next(_keys)}"
        if "expires_ms" in body:
            at = datetime.fromtimestamp(body.pop("expires_ms") / 1000, UTC)
            body["expires_at"] = at.isoformat(timespec="milliseconds")
        return await self._send("POST", f"{account}/grants", {"amount": amount, **body}, key)

    async def reserve(self, account: str, key: str | None, **body: Any) -> Outcome:
        return await self._send("POST", f"{account}/holds", body, key)

    async def hold(self, account: str, hold: str) -> Outcome:
        return await self._send("GET", f"{account}/holds/{hold}", None)

    async def commit(self, account: str, hold: str, key: str | None = None, **body: Any) -> Outcome:
        return await self._send("POST", f"{account}/holds/{hold}/commit", body, key)

    async def release(
        self, account: str, hold: str, key: str | None = None, **body: Any
    ) -> Outcome:
        return await self._send("POST", f"{account}/holds/{hold}/release", body, key)

    async def extend(self, account: str, hold: str, key: str | None = None, **body: Any) -> Outcome:
        return await self._send("POST", f"{account}/holds/{hold}/extend", body, key)

    async def charge(self, account: str, key: str, **body: Any) -> Outcome:
        return await self._send("POST", f"{account}/charges", body, key)

    async def refund(self, account: str, key: str, **body: Any) -> Outcome:
        return await self._send("POST", f"{account}/refunds", body, key)

    async def adjust(self, account: str, key: str, **body: Any) -> Outcome:
        return await self._send("POST", f"{account}/adjustments", body, key)


class LedgerDriver:
    """The in-process ledger, as a backend in Python would embed it."""

    name = "ledger"

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def close(self) -> None:
        await self._ledger.close()

    @staticmethod
    def _context(body: dict[str, Any]) -> Context:
        return Context("test", "test", description=body.pop("description", None))

    @staticmethod
    def _named(body: dict[str, Any]) -> dict[str, Any]:
        """In process, what is in `usage` is an argument of its own."""
        usage = body.pop("usage", {})
        return body | usage

    @staticmethod
    async def _outcome(call: Awaitable[Any], fresh: int = 201) -> Outcome:
        try:
            answer = await call
        except HoldfastError as error:
            return Outcome(
                error.status, {"code": error.code, "detail": error.detail, **error.members}
            )
        replayed = getattr(answer, "replayed", False)
        created = getattr(answer, "created", True)
        status = fresh if created and not replayed else 200
        body = asdict(answer)
        if "max_hold" in body:  # a member: over HTTP its limits are an object
            names = ("daily_limit", "monthly_limit", "max_hold")
            body["limits"] = {name: body.pop(name) for name in names}
        if "version" not in body and answer.receipt is not None:
            body["version"] = answer.receipt.version
        return Outcome(status, body, replayed)

    async def open(self, account: str, **body: Any) -> Outcome:
        context = self._context(body)
        return await self._outcome(self._ledger.put_account(account, body, context=context))

    async def account(self, account: str) -> Outcome:
        return await self._outcome(self._ledger.get_account(account), 200)

    async def put_member(self, account: str, member: str, **body: Any) -> Outcome:
        call = self._ledger.put_member(account, member, body, context=self._context({}))
        return await self._outcome(call)

    async def member(self, account: str, member: str) -> Outcome:
        return await self._outcome(self._ledger.get_member(account, member), 200)

    async def grant(
        self, account: str, amount: Any, key: str | None = None, **body: Any
    ) -> Outcome:
        context = self._context(body)
        call = self._ledger.grant(
            account, key or f"grant-{next(_keys)}", amount=amount, context=context, **body
        )
        return await self._outcome(call)

    async def reserve(self, account: str, key: str | None, **body: Any) -> Outcome:
        assert key is not None
        context = self._context(body)
        call = self._ledger.reserve(account, key, context=context, **self._named(body))
        return await self._outcome(call)

    async def hold(self, account: str, hold: str) -> Outcome:
        return await self._outcome(self._ledger.get_hold(account, hold), 200)

    async def commit(self, account: str, hold: str, key: str | None = None, **body: Any) -> Outcome:
        context = self._context(body)
        call = self._ledger.commit(account, hold, key=key, context=context, **body)
        return await self._outcome(call, 200)

    async def release(
        self, account: str, hold: str, key: str | None = None, **body: Any
    ) -> Outcome:
        context = self._context(body)
        call = self._ledger.release(account, hold, key=key, context=context, **body)
        return await self._outcome(call, 200)

    async def extend(self, account: str, hold: str, key: str | None = None, **body: Any) -> Outcome:
        context = self._context(body)
        call = self._ledger.extend(account, hold, key=key, context=context, **body)
        return await self._outcome(call, 200)

    async def charge(self, account: str, key: str, **body: Any) -> Outcome:
        context = self._context(body)
        call = self._ledger.charge(account, key, context=context, **self._named(body))
        return await self._outcome(call)

    async def refund(self, account: str, key: str, **body: Any) -> Outcome:
        context = self._context(body)
        return await self._outcome(self._ledger.refund(account, key, context=context, **body))

    async def adjust(self, account: str, key: str, **body: Any) -> Outcome:
        context = self._context(body)
        return await self._outcome(self._ledger.adjust(account, key, context=context, **body))
