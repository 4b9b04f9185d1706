"""Accounts for a load: opened and granted before it begins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from holdfast.client import AsyncClient, HoldfastError

__all__ = ["LOAD_CLIENT_RETRIES", "each", "open_accounts"]

T = TypeVar("T")

LOAD_CLIENT_RETRIES = 10
"""Repeats of a call of the general client: about half a minute of the service being away."""

# Calls of the general client under way at once: one costs about 0.7 ms of processor time, so that
# more of them would only wait for each other.
_CONCURRENCY = 16


async def open_accounts(client: AsyncClient, grants: Mapping[str, int]) -> None:
    """Open each account and put its microcredits into it. Raises HoldfastError."""

    async def open_account(account: str) -> None:
        await client.put_account(account)
        await client.grant(account, grants[account], source="promo")

    await each(grants, open_account)


async def each(items: Iterable[T], act: Callable[[T], Awaitable[None]]) -> None:
    """`act` on all items, a few at a time. Raises the first HoldfastError there was."""
    rest = iter(items)

    async def work() -> None:
        for item in rest:
            await act(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_CONCURRENCY):
                group.create_task(work())
    except* HoldfastError as errors:
        raise errors.exceptions[0] from errors
