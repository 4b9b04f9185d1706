"""The pool against a Postgres that is killed, stopped and started again."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from holdfast.config import Config
from holdfast.embedded import Postgres
from holdfast.errors import StoreUnavailable
from holdfast.postgres import Pool, open_pool
from holdfast.queries import loader, sql

PATIENCE_S = 20.0  # bounds what the pool must bound by itself, so that a failure ends


@asynccontextmanager
async def pool_of(url: str, size: int = 2) -> AsyncIterator[Pool]:
    pool = await open_pool(Config(database_url=url, pool_size=size))
    try:
        yield pool
    finally:
        await pool.close()


async def test_without_a_url_it_says_which_setting_is_missing() -> None:
    with pytest.raises(StoreUnavailable, match="HOLDFAST_DATABASE_URL"):
        await open_pool(Config(database_url=None))


async def test_a_killed_postgres_is_store_unavailable_and_comes_back(server_dir: Path) -> None:
    with await asyncio.to_thread(Postgres.start, server_dir / "pg", fsync=False) as server:
        async with pool_of(server.url) as pool:
            await pool.ping()
            async with pool.acquire() as one, pool.acquire() as two:
                await one.fetchval("SELECT 1")
                await two.fetchval("SELECT 1")
            await asyncio.to_thread(server.kill)

            # A backend outlives its killed server until it next waits, as it does in here.
            with pytest.raises(StoreUnavailable) as refused:
                await pool.fetchrow("SELECT pg_sleep(60)")
            assert refused.value.store == "postgres"

            await asyncio.to_thread(server.restart)
            await pool.ping()


async def test_a_statement_that_dies_with_postgres_is_store_unavailable(server_dir: Path) -> None:
    with await asyncio.to_thread(Postgres.start, server_dir / "pg", fsync=False) as server:
        async with pool_of(server.url) as pool, asyncio.timeout(PATIENCE_S):
            with pytest.raises(StoreUnavailable):
                async with pool.acquire() as connection:
                    await connection.execute("SELECT 1")
                    await asyncio.to_thread(server.kill)
                    await connection.execute("SELECT pg_sleep(60)")


async def test_a_silent_postgres_is_store_unavailable_and_comes_back(server_dir: Path) -> None:
    with await asyncio.to_thread(Postgres.start, server_dir / "pg", fsync=False) as server:
        async with pool_of(server.url) as pool:
            await pool.ping()
            async with pool.acquire() as connection:
                backend = await connection.fetchval("SELECT pg_backend_pid()")
            stopped = (server.pid, backend)
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    # The third finds no connection free until the block's own time is up.
                    answers = await asyncio.gather(
                        *(pool.ping() for _ in range(3)), return_exceptions=True
                    )
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
            assert [type(answer) for answer in answers] == [StoreUnavailable] * 3
            await pool.ping()


async def test_who_waits_in_vain_for_a_connection_breaks_none(postgres_server: Postgres) -> None:
    """Given more callers than a pool serves in time, I expect those it serves to be served by the
    connections that there are: to make them anew would take what time there is."""
    statement = "SELECT pg_backend_pid() AS pid, pg_sleep(0.2)"
    async with pool_of(postgres_server.url) as pool, asyncio.timeout(PATIENCE_S):
        async with pool.acquire() as one, pool.acquire() as two:
            pids = {await each.fetchval("SELECT pg_backend_pid()") for each in (one, two)}
        answers = await asyncio.gather(
            *(pool.fetchrow(statement) for _ in range(40)), return_exceptions=True
        )
        served = [answer for answer in answers if not isinstance(answer, BaseException)]
        assert served and {answer["pid"] for answer in served} == pids
        refused = [answer for answer in answers if isinstance(answer, BaseException)]
        assert refused and {type(each) for each in refused} == {StoreUnavailable}
        async with pool.acquire() as one, pool.acquire() as two:
            assert {await each.fetchval("SELECT pg_backend_pid()") for each in (one, two)} == pids


async def test_a_slow_statement_is_ended_by_the_server(postgres_server: Postgres) -> None:
    async with pool_of(postgres_server.url) as pool:
        with pytest.raises(StoreUnavailable, match="too long"):
            await pool.fetchrow("SELECT pg_sleep(60)")
        await pool.ping()


async def test_a_wrong_statement_is_a_bug_and_no_unavailability(postgres_server: Postgres) -> None:
    async with pool_of(postgres_server.url) as pool:
        with pytest.raises(asyncpg.UndefinedTableError):
            await pool.fetch("SELECT 1 FROM there_is_no_such_table")
        with pytest.raises(RuntimeError, match="called wrongly"):
            await pool.fetch("SELECT $1::int", 1, 2)
        await pool.ping()


async def test_a_wrong_password_names_no_secret(postgres_server: Postgres) -> None:
    url = postgres_server.url.replace("holdfast:", "holdfast:wrong")
    async with pool_of(url) as pool:
        with pytest.raises(StoreUnavailable) as refused:
            await pool.ping()
    assert refused.value.detail == "Postgres refuses this service's login"


def test_every_statement_opens_with_its_description() -> None:
    directory = Path(__file__).parents[2] / "src" / "holdfast" / "sql"
    names = sorted(path.stem for path in directory.glob("*.sql"))
    assert names
    for name in names:
        statement = sql(name)
        assert statement and not statement.startswith("--"), name
        assert ";" not in statement.rstrip(";"), f"{name}: one statement a file"


def test_a_statement_without_a_file_is_refused() -> None:
    with pytest.raises(FileNotFoundError):
        loader("holdfast")("there_is_no_such_statement")
