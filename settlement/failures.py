"""What a store that is away raises: an attempt ends, and the next round tries again."""

from __future__ import annotations

from typing import Final

import asyncpg

POSTGRES_FAILURES: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,  # TimeoutError is one of them
)
"""Postgres is away, restarting, full or silent, or a row is kept by somebody for too long."""


def described(error: BaseException) -> str:
    """An error in one line of a log: its type and what it says."""
    return f"{type(error).__name__}: {error}"
