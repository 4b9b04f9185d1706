"""A hold around a block of work: reserved before it, committed or released after it.

    async with client.hold("acme", 50_000) as hold:
        answer = await model(prompt)
        hold.commit(cost_of(answer))

What the block said decides. `hold.commit(amount)` or `hold.release()` only note what to do; it is
done, once, when the block ends, and the last word counts. If the block said nothing: at its normal
end the whole hold is committed (the estimate is charged, since the work was done), and on an
exception it is released. A block that named the cost and fails later is still committed: the work
was done. Credits beyond the hold are taken from what is available, and where that is not enough,
by default, what there is (`on_shortfall="cap"`), as nothing can be denied after the work.

With `keep_alive=True` the deadline is moved on in the background for as long as the block runs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from holdfast.client import calls
from holdfast.client.call import Call, Durability, OnShortfall
from holdfast.client.errors import Conflict, HoldfastError, NotFound
from holdfast.client.results import Hold

if TYPE_CHECKING:
    from holdfast.client.aio import AsyncClient
    from holdfast.client.blocking import Client

__all__ = ["AsyncOpenHold", "OpenHold"]

# A third of the time to live: two heartbeats may be lost before the hold is.
_BEATS_PER_TTL = 3
# The longest time to live that the contract knows also bounds how long a hold is kept alive.
_KEEP_ALIVE_MAX_S = 86_400


@dataclass(frozen=True)
class _Commit:
    amount: int | None = None
    usage: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class _Release:
    reason: str | None = None


class _Block:
    """What both kinds share: the hold, what the block said, and the call that follows from it."""

    def __init__(
        self,
        call: Call[Hold],
        *,
        ttl_seconds: int,
        on_shortfall: OnShortfall,
        keep_alive: bool,
    ) -> None:
        self._call = call
        self._ttl_seconds = ttl_seconds
        self._on_shortfall: OnShortfall = on_shortfall
        self._keep_alive = keep_alive
        self._reserved: Hold | None = None
        self._said: _Commit | _Release | None = None
        self.result: Hold | None = None
        """The ended hold, once the block is over."""

    @property
    def reserved(self) -> Hold:
        """The hold as it was reserved. Raises RuntimeError before the block."""
        if self._reserved is None:
            raise RuntimeError("nothing is reserved before the `with` block begins")
        return self._reserved

    @property
    def id(self) -> str:
        """The hold's id, which is the Idempotency-Key it was reserved with."""
        return self.reserved.id

    @property
    def amount(self) -> int:
        """What is set aside, in microcredits; with `min_amount`, maybe less than was asked for."""
        return self.reserved.amount

    @property
    def expires_at(self) -> datetime | None:
        """The deadline as it was reserved."""
        return self.reserved.expires_at

    def commit(
        self,
        amount: int | None = None,
        *,
        on_shortfall: OnShortfall | None = None,
        usage: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Say that the work cost `amount` microcredits (default: the whole hold)."""
        if on_shortfall is not None:
            self._on_shortfall = on_shortfall
        self._said = _Commit(amount, usage, metadata)

    def release(self, reason: str | None = None) -> None:
        """Say that nothing is to be charged."""
        self._said = _Release(reason)

    def _last_call(self, error: BaseException | None) -> Call[Hold]:
        said = self._said
        if said is None:
            said = _Commit() if error is None else _Release(reason=type(error).__name__)
        held = self.reserved
        durability: Durability | None = self._call.durability
        if isinstance(said, _Release):
            return calls.release(held.account, held.id, reason=said.reason, durability=durability)
        return calls.commit(
            held.account,
            held.id,
            said.amount,
            on_shortfall=self._on_shortfall,
            usage=said.usage,
            metadata=said.metadata,
            durability=durability,
        )

    def _heartbeat(self) -> Call[Hold]:
        held = self.reserved
        return calls.extend(held.account, held.id, ttl_seconds=self._ttl_seconds)

    def _beat_s(self) -> float:
        return self._ttl_seconds / _BEATS_PER_TTL

    def _beats(self) -> range:
        return range(int(_KEEP_ALIVE_MAX_S / self._beat_s()))

    def _note(self, error: BaseException, failure: HoldfastError) -> None:
        """The block's own exception is the news; what failed after it is told along with it."""
        error.add_note(
            f"holdfast: hold {self.id} of {self.reserved.account} could not be ended ({failure}); "
            f"it expires by itself at {self.expires_at}"
        )


class AsyncOpenHold(_Block):
    """A hold around an `async with` block; what becomes of it is told at the top of this module."""

    def __init__(
        self,
        client: AsyncClient,
        call: Call[Hold],
        *,
        ttl_seconds: int,
        on_shortfall: OnShortfall,
        keep_alive: bool,
    ) -> None:
        super().__init__(
            call, ttl_seconds=ttl_seconds, on_shortfall=on_shortfall, keep_alive=keep_alive
        )
        self._client = client
        self._beating: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._reserved = await self._client.send(self._call)
        if self._keep_alive:
            self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._beating is not None:
            self._beating.cancel()
        try:
            await self._client.finish(self._end(error))
        except HoldfastError as failure:
            if error is None:
                raise
            self._note(error, failure)

    async def _end(self, error: BaseException | None) -> None:
        if self._beating is not None:
            await asyncio.wait([self._beating])
        self.result = await self._client.send(self._last_call(error))

    async def _beat(self) -> None:
        for _ in self._beats():
            await asyncio.sleep(self._beat_s())
            try:
                await self._client.send(self._heartbeat())
            except (Conflict, NotFound):
                # Over, or past its deadline: the commit at the end still works, marked late.
                return
            except HoldfastError:
                # The next beat comes before the deadline.
                continue


class OpenHold(_Block):
    """A hold around a `with` block; what becomes of it is told at the top of this module."""

    def __init__(
        self,
        client: Client,
        call: Call[Hold],
        *,
        ttl_seconds: int,
        on_shortfall: OnShortfall,
        keep_alive: bool,
    ) -> None:
        super().__init__(
            call, ttl_seconds=ttl_seconds, on_shortfall=on_shortfall, keep_alive=keep_alive
        )
        self._client = client
        self._over = threading.Event()
        self._beating: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._reserved = self._client.send(self._call)
        if self._keep_alive:
            self._beating = threading.Thread(
                target=self._beat, name=f"holdfast-keep-alive-{self.id}", daemon=True
            )
            self._beating.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The thread is not waited for: a heartbeat under way beside the commit changes nothing.
        self._over.set()
        try:
            self.result = self._client.send(self._last_call(error))
        except HoldfastError as failure:
            if error is None:
                raise
            self._note(error, failure)

    def _beat(self) -> None:
        for _ in self._beats():
            if self._over.wait(self._beat_s()):
                return
            with suppress(HoldfastError):
                try:
                    self._client.send(self._heartbeat())
                except (Conflict, NotFound):
                    return
