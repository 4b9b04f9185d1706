"""The `holdfast` command, as a process of its own, on the stores of a stack."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.stack import Stack

COMMAND_TIMEOUT_S = 60  # for commands that take a second, on a machine that is busy


def environment(stack: Stack, **settings: Any) -> dict[str, str]:
    """What tells a program where a stack's stores are, and other settings of `config.py`."""
    config = stack.config
    stores = {
        "redis_url": config.redis_url,
        "database_url": config.database_url,
        "prefix": config.prefix,
        "shards": config.shards,
    }
    ours = {f"HOLDFAST_{name.upper()}": str(value) for name, value in (stores | settings).items()}
    others = ("REDIS_URL", "DATABASE_URL")
    rest = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
    return {name: value for name, value in rest.items() if name not in others} | ours


@asynccontextmanager
async def command(stack: Stack, *words: str, **settings: Any) -> AsyncIterator[Process]:
    """`python -m WORDS` while the block runs; what it says is kept for `communicate`."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *words),
        stdout=PIPE,
        stderr=PIPE,
        env=environment(stack, **settings),
    )
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
        await running.communicate()


async def outcome(stack: Stack, *words: str, **settings: Any) -> tuple[int | None, str, str]:
    """Exit code, output and errors of a command that ends by itself."""
    async with command(stack, *words, **settings) as running:
        printed, said = await asyncio.wait_for(running.communicate(), COMMAND_TIMEOUT_S)
        return running.returncode, printed.decode(), said.decode()


async def assert_reconciled(stack: Stack) -> dict[str, Any]:
    """The two stores agree about everything; answers what `holdfast reconcile` says of it."""
    code, printed, said = await outcome(stack, "holdfast", "reconcile", "--json")
    assert code == 0, printed + said
    report: dict[str, Any] = json.loads(printed)
    return report
