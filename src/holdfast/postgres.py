"""The pool of Postgres connections, and the one seam where the driver's errors become ours.

    async with pool.acquire() as connection:
        rows = await connection.fetch(sql("list_entries"), account, after, limit)

A Postgres that is gone, silent, shutting down or full raises StoreUnavailable("postgres", …) out of
the block, at the latest 2.4 s after it was entered; the pool connects again when Postgres is back.
What is wrong with a statement itself is a bug, and stays the driver's error.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from holdfast.config import Config
from holdfast.errors import StoreUnavailable

# A caller is answered within 2.5 s whatever Postgres does: 1 s at most to connect, 1.8 s for a
# statement before the server ends it, 2 s before we take the connection for dead, 2.4 s in all.
_CONNECT_S = 1.0
_STATEMENT_MS = 1800
_COMMAND_S = 2.0
_BLOCK_S = 2.4
# Of which so much is spent waiting for a connection. Who has one by then has a second for what
# takes milliseconds: connections that are cut off in the middle of it, because the time had gone by
# in the queue, would have to be made anew, and the queue would never end.
_WAIT_S = 1.4
# Idle connections are closed after five minutes; what a load balancer drops in silence is older.
_IDLE_S = 300.0
# Closing waits this long for those who still hold a connection, then cuts them off.
_CLOSE_S = 3.0

# Classes of SQLSTATE that speak of the server or the connection, not of the statement.
_NOT_THERE = (
    asyncpg.PostgresConnectionError,  # 08
    asyncpg.InvalidAuthorizationSpecificationError,  # 28: its password changed, or its pg_hba
    asyncpg.InvalidCatalogNameError,  # 3D000: the database is not there (yet)
    asyncpg.InsufficientResourcesError,  # 53: connections, memory, disk
    asyncpg.OperatorInterventionError,  # 57: shutting down, starting, cancelled by a time-out
    asyncpg.PostgresSystemError,  # 58: I/O
    asyncpg.ReadOnlySQLTransactionError,  # 25006: a standby
    asyncpg.IdleInTransactionSessionTimeoutError,  # 25P03: we were stopped for a while
    asyncpg.InternalClientError,  # the connection ended in the middle of an answer
)


async def open_pool(config: Config, *, application_name: str = "holdfast-api") -> Pool:
    """A pool for the database that `config` names. It connects when it is first used.

    Raises StoreUnavailable where no URL is configured.
    """
    if config.database_url is None:
        raise StoreUnavailable("postgres", "no database: set HOLDFAST_DATABASE_URL")
    pool = await asyncpg.create_pool(
        config.database_url,
        min_size=0,  # so that a process starts, and says 503, while Postgres is away
        max_size=config.pool_size,
        max_inactive_connection_lifetime=_IDLE_S,
        timeout=_CONNECT_S,
        command_timeout=_COMMAND_S,
        server_settings={
            "application_name": application_name,
            "statement_timeout": str(_STATEMENT_MS),
            "idle_in_transaction_session_timeout": str(_STATEMENT_MS),
            "timezone": "UTC",
        },
    )
    return Pool(pool)


class Pool:
    """Connections to Postgres, at most `config.pool_size` at a time; see the top of this module."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        """A connection (asyncpg.Connection) for the statements of the block.

        Raises StoreUnavailable as described at the top of this module.
        """
        loop = asyncio.get_running_loop()
        taken_at = 0.0
        try:
            async with asyncio.timeout(_BLOCK_S):
                connection = await self._pool.acquire(timeout=_WAIT_S)
                taken_at = loop.time()
                try:
                    yield connection
                except (TimeoutError, asyncio.CancelledError):
                    # The statement may still run: a polite release would wait for its end.
                    connection.terminate()
                    raise
                except asyncpg.InterfaceError as error:
                    if not connection.is_closed():
                        raise RuntimeError("asyncpg was called wrongly") from error
                    raise
                finally:
                    await self._pool.release(connection)
        except TimeoutError as error:
            if not taken_at:
                raise StoreUnavailable("postgres", "no connection to Postgres is free") from error
            if loop.time() - taken_at >= _STATEMENT_MS / 1000:
                # Silence, not a slow statement (the server ends those): none other is better.
                with suppress(asyncpg.InterfaceError):
                    await self._pool.expire_connections()
            raise StoreUnavailable("postgres", "Postgres does not answer") from error
        except OSError as error:
            raise StoreUnavailable("postgres", "Postgres cannot be reached") from error
        except asyncpg.QueryCanceledError as error:
            raise StoreUnavailable("postgres", "Postgres took too long to answer") from error
        except _NOT_THERE as error:
            raise StoreUnavailable("postgres", _cause(error)) from error
        except asyncpg.InterfaceError as error:
            raise StoreUnavailable("postgres", "the connection to Postgres ended") from error

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:
        """All rows of one statement."""
        async with self.acquire() as connection:
            rows: list[Any] = await connection.fetch(query, *arguments)
            return rows

    async def fetchrow(self, query: str, *arguments: Any) -> Any | None:
        """The first row of one statement, or None."""
        async with self.acquire() as connection:
            return await connection.fetchrow(query, *arguments)

    async def ping(self) -> None:
        """Raises StoreUnavailable unless Postgres answers."""
        await self.fetchrow("SELECT 1")

    async def close(self) -> None:
        """Close all connections, those in use after at most 3 s."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()


def _cause(error: BaseException) -> str:
    """What may be told to a caller: no host, user or statement."""
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return "Postgres refuses this service's login"
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return "Postgres does not have this service's database"
    if isinstance(error, asyncpg.InsufficientResourcesError):
        return "Postgres is out of connections, memory or disk"
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        return "Postgres is a read-only standby"
    if isinstance(error, asyncpg.CannotConnectNowError | asyncpg.AdminShutdownError):
        return "Postgres is starting or shutting down"
    return "the connection to Postgres failed"
