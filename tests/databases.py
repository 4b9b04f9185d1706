"""Databases of their own for tests that need no Redis: made and migrated, emptied, dropped."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from holdfast.config import Config
from holdfast.postgres import Pool, open_pool
from settlement import schema


@contextmanager
def migrated_database(server_url: str) -> Iterator[str]:
    """The URL of a new database with our schema on a server that is shared."""
    name = f"holdfast_d{secrets.token_hex(4)}"
    url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))

    async def administer(statement: str) -> None:
        connection = await asyncpg.connect(server_url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(administer(f"CREATE DATABASE {name}"))
    try:
        asyncio.run(schema.migrate(url, shards=4, prefix="hf"))
        yield url
    finally:
        asyncio.run(administer(f"DROP DATABASE {name} WITH (FORCE)"))


@asynccontextmanager
async def emptied(url: str, *tables: str) -> AsyncIterator[Pool]:
    """A pool on a database whose `tables` are empty."""
    pool = await open_pool(Config(database_url=url))
    try:
        await pool.fetch(f"TRUNCATE {', '.join(tables)}")
        yield pool
    finally:
        await pool.close()
