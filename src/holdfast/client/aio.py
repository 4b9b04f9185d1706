"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx2

from holdfast.client import calls
from holdfast.client.backoff import Backoff
from holdfast.client.batch import batch
from holdfast.client.call import DEFAULT_TTL_SECONDS, Call, Durability, OnShortfall
from holdfast.client.debts import collect, debts, uncollected
from holdfast.client.errors import HoldfastError
from holdfast.client.exchange import Service, error_from_failure, read_answer, signature_of_method
from holdfast.client.openhold import AsyncOpenHold
from holdfast.client.results import Entry

__all__ = ["AsyncClient"]

P = ParamSpec("P")
T = TypeVar("T")


def _sent(
    build: Callable[P, Call[T]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """The method that builds a call and sends it: one definition of each call for both clients."""

    @wraps(build)
    async def send(client: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await client.send(build(*args, **kwargs))

    send.__signature__ = signature_of_method(build)  # type: ignore[attr-defined]
    return send


class AsyncClient:
    """Speaks to holdfast from asyncio.

    `durability` is asked of every change unless the call says otherwise (memory, local, settled).
    `retries` bounds the repeats of a call whose error is retryable, always with the same key, 0
    for none; a `Backoff` also says how long to wait between them. `timeout_s` bounds each attempt.
    `transport` replaces the network, to speak to an ASGI app in the same process.

    Every method raises a HoldfastError where the call does not succeed, and ValueError for an id
    that cannot be sent.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        durability: Durability | None = None,
        retries: int | Backoff = Backoff.retries,
        timeout_s: float = 10.0,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._service = Service(base_url, api_key, durability, timeout_s)
        self._backoff = retries if isinstance(retries, Backoff) else Backoff(retries)
        self._http = httpx2.AsyncClient(transport=transport, **self._service.settings())
        # Ends of holds whose caller was cancelled meanwhile; at most one a hold block.
        self._ending: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Wait for holds that are being ended, and close the connections."""
        if self._ending:
            await asyncio.wait(self._ending)
        await self._http.aclose()

    async def send(self, call: Call[T]) -> T:
        """Send a call built by a function of `holdfast.client.calls`."""
        request = self._service.request(call)
        # Ends at the latest when Backoff has used up its repeats.
        repeats = 0
        while True:
            try:
                return await self._attempt(call, request)
            except HoldfastError as error:
                wait_s = self._backoff.wait_s(repeats, error)
                if wait_s is None:
                    raise
            await asyncio.sleep(wait_s)
            repeats += 1

    async def _attempt(self, call: Call[T], request: Mapping[str, Any]) -> T:
        try:
            answer = await self._http.request(**request)
        except httpx2.RequestError as failure:
            raise error_from_failure(failure, call) from failure
        return read_answer(call, answer.status_code, answer.headers, answer.content)

    put_account = _sent(calls.put_account)
    get_account = _sent(calls.get_account)
    close_account = _sent(calls.close_account)
    accounts = _sent(calls.accounts)
    put_member = _sent(calls.put_member)
    get_member = _sent(calls.get_member)
    reserve = _sent(calls.reserve)
    get_hold = _sent(calls.get_hold)
    holds = _sent(calls.holds)
    commit = _sent(calls.commit)
    release = _sent(calls.release)
    extend = _sent(calls.extend)
    charge = _sent(calls.charge)
    refund = _sent(calls.refund)
    grant = _sent(calls.grant)
    adjust = _sent(calls.adjust)
    entries = _sent(calls.entries)
    usage = _sent(calls.usage)
    forecast = _sent(calls.forecast)
    batch = _sent(batch)
    debts = _sent(debts)
    uncollected = _sent(uncollected)
    collect = _sent(collect)

    async def iter_entries(self, account: str, *, after: str | None = None) -> AsyncIterator[Entry]:
        """The account's journal after the cursor `after`, page by page, to its end."""
        while True:
            page = await self.entries(account, after=after, limit=1_000)
            for entry in page.data:
                yield entry
            if page.next is None or page.next == after:
                return
            after = page.next

    def hold(
        self,
        account: str,
        amount: int | None = None,
        *,
        min_amount: int | None = None,
        ttl_seconds: int = DEFAULT_TTL_SECONDS,
        member: str | None = None,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        model: str | None = None,
        usage: Mapping[str, Any] | None = None,
        quote_id: str | None = None,
        key: str | None = None,
        durability: Durability | None = None,
        on_shortfall: OnShortfall = "cap",
        keep_alive: bool = False,
    ) -> AsyncOpenHold:
        """A hold around a block of work; see `AsyncOpenHold`."""
        call = calls.reserve(
            account,
            amount,
            min_amount=min_amount,
            ttl_seconds=ttl_seconds,
            member=member,
            description=description,
            metadata=metadata,
            model=model,
            usage=usage,
            quote_id=quote_id,
            key=key,
            durability=durability,
        )
        return AsyncOpenHold(
            self, call, ttl_seconds=ttl_seconds, on_shortfall=on_shortfall, keep_alive=keep_alive
        )

    async def finish(self, ending: Coroutine[Any, Any, None]) -> None:
        """Run the end of a hold to its end, also if the caller is cancelled meanwhile."""
        task = asyncio.ensure_future(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        await asyncio.shield(task)
