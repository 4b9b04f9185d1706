"""Calls that a service which is closed must refuse, with the reason."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from holdfast.client import StoreUnavailable
from tests.faults.program import PATIENCE_S, POLL_S


async def assert_refused(call: Awaitable[Any], store: str) -> None:
    """The call is refused as 503 `store_unavailable`, because of `store`."""
    try:
        answer = await call
    except StoreUnavailable as refusal:
        assert refusal.problem["store"] == store, refusal.problem
    else:
        raise AssertionError(f"not refused: {answer}")


async def until_refused(call: Callable[[], Awaitable[Any]], store: str) -> None:
    """Repeat a call until it is refused because of `store`."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            answer: Any = await call()
        except StoreUnavailable as refusal:
            answer = refusal.problem
            if answer["store"] == store:
                return
        assert time.monotonic() < deadline, f"not refused because of {store}, but {answer}"
        await asyncio.sleep(POLL_S)
