"""A settle whose connection goes silent gives it up at once, for the next one to be settled."""

from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from holdfast.embedded import Postgres, Valkey
from settlement import journal
from tests.faults.proxy import FaultProxy, Rule
from tests.stack import Stack


async def test_silent_connection_is_given_up(
    valkey_server: Valkey, postgres_server: Postgres
) -> None:
    """Given a connection that hears nothing any more, If a batch is settled over it, I expect one
    time-out, a connection that is closed, and the batch to settle over the next one."""
    async with Stack(valkey_server.url, postgres_server.url, shards=1) as stack:
        await stack.open("acme", grant=100)
        batch = await stack.batch(0)
        place = urlsplit(stack.config.database_url or "")
        assert place.hostname is not None
        assert place.port is not None
        async with FaultProxy((place.hostname, place.port)) as proxy:
            host = place.netloc.replace(f":{place.port}", f":{proxy.port}")
            conn = await asyncpg.connect(
                urlunsplit(place._replace(netloc=host)), command_timeout=0.3
            )
            try:
                assert await conn.fetchval("SELECT 1") == 1
                proxy.rule = Rule("half-open")
                with pytest.raises(TimeoutError):
                    await journal.settle(conn, [batch])
                assert conn.is_closed()
            finally:
                conn.terminate()
        async with stack.pool.acquire() as conn:
            (outcome,) = await journal.settle(conn, [batch])
        assert outcome.error is None
