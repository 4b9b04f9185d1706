"""API keys in a real Postgres: made, found, cached, revoked, and what a lost Postgres changes."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from holdfast import api_keys
from holdfast.api_keys import ApiKeys
from holdfast.config import Config
from holdfast.embedded import Postgres
from holdfast.errors import InvalidRequest, NotFound, StoreUnavailable, Unauthenticated
from holdfast.postgres import Pool, open_pool
from settlement import schema
from tests.databases import emptied, migrated_database

CACHE_S = 3600


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class CountingPool:
    """A real pool, and how often it was asked."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.asked = 0

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:
        self.asked += 1
        return await self._pool.fetch(query, *arguments)


@pytest.fixture(scope="module")
def database_url(postgres_server: Postgres) -> Iterator[str]:
    with migrated_database(postgres_server.url) as url:
        yield url


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with emptied(database_url, "api_key") as pool:
        yield pool


def cache_of(pool: Any, clock: Clock | None = None) -> ApiKeys:
    return ApiKeys(pool, CACHE_S, clock or Clock())


# ── what an operator does ────────────────────────────────────────────────────────────────────────


async def test_a_new_key_is_found_by_its_token_alone(pool: Pool) -> None:
    made, token = await api_keys.create(pool, "backend", ["spend", "read", "read"], "acme:*")
    assert (made.scopes, made.accounts) == ({"read", "spend"}, "acme:*")
    assert made.actor == f"key:{made.id}"
    assert await cache_of(pool).find(token.encode()) == made


async def test_postgres_never_sees_the_token(pool: Pool) -> None:
    made, token = await api_keys.create(pool, "backend", ["spend"])
    [row] = await pool.fetch("SELECT * FROM api_key")
    assert row["digest"] == sha256(token.encode()).digest()
    secret = token.removeprefix(f"hf_{made.id}_")
    assert len(secret) == 43
    assert secret not in repr(dict(row)) and secret not in repr(made)


@pytest.mark.parametrize(
    ("name", "scopes", "accounts", "field"),
    [
        ("", ["read"], None, "name"),
        ("x" * 129, ["read"], None, "name"),
        ("x", [], None, "scopes"),
        ("x", ["read", "root"], None, "scopes"),
        ("x", ["read"], "", "accounts"),
        ("x", ["read"], "a*b", "accounts"),
        ("x", ["read"], "a/b", "accounts"),
    ],
)
async def test_a_key_that_makes_no_sense_is_refused(
    pool: Pool, name: str, scopes: list[str], accounts: str | None, field: str
) -> None:
    with pytest.raises(InvalidRequest, match=field):
        await api_keys.create(pool, name, scopes, accounts)
    assert await api_keys.page(pool) == []


async def test_keys_are_listed_in_pages_with_the_revoked_ones(pool: Pool) -> None:
    made = [(await api_keys.create(pool, f"k{i}", ["read"]))[0].id for i in range(5)]
    revoked = await api_keys.revoke(pool, made[2])
    assert revoked.revoked_at is not None
    first = await api_keys.page(pool, limit=3)
    rest = await api_keys.page(pool, first[-1].id, limit=3)
    assert [key.id for key in first + rest] == sorted(made)
    assert [key.id for key in first + rest if key.revoked_at] == [made[2]]


async def test_revoking_twice_keeps_the_first_time(pool: Pool) -> None:
    made, _ = await api_keys.create(pool, "backend", ["read"])
    assert await api_keys.revoke(pool, made.id) == await api_keys.revoke(pool, made.id)
    with pytest.raises(NotFound):
        await api_keys.revoke(pool, "nosuchkey000")


# ── what every call does ─────────────────────────────────────────────────────────────────────────


async def test_a_known_key_is_found_without_postgres(pool: Pool) -> None:
    counting = CountingPool(pool)
    _, token = await api_keys.create(pool, "backend", ["read"])
    keys = cache_of(counting)
    assert keys.known(token.encode()) is None
    found = await keys.find(token.encode())
    assert keys.known(token.encode()) is found
    assert counting.asked == 1


@pytest.mark.parametrize("token", [b"", b"hf_", b"secret", b"hf_abc_def", b"\xff" * 60])
async def test_what_is_no_token_does_not_reach_postgres(pool: Pool, token: bytes) -> None:
    counting = CountingPool(pool)
    keys = cache_of(counting)
    assert keys.known(token) is None
    with pytest.raises(Unauthenticated):
        await keys.find(token)
    assert counting.asked == 0


async def test_the_right_id_with_another_secret_is_refused(pool: Pool) -> None:
    _, token = await api_keys.create(pool, "backend", ["read"])
    forged = (token[:-1] + ("A" if token[-1] != "A" else "B")).encode()
    keys = cache_of(pool)
    for _ in range(2):  # unknown, and then with the real key cached
        assert keys.known(forged) is None
        with pytest.raises(Unauthenticated):
            await keys.find(forged)
        await keys.find(token.encode())


async def test_an_unknown_id_is_asked_for_once_in_five_seconds(pool: Pool) -> None:
    counting, clock = CountingPool(pool), Clock()
    keys = cache_of(counting, clock)
    token = b"hf_nosuchkey000_" + b"x" * 43
    for now, asked in ((1000.0, 1), (1004.9, 1), (1005.0, 2)):
        clock.now = now
        with pytest.raises(Unauthenticated):
            await keys.find(token)
        assert counting.asked == asked


async def test_calls_that_come_together_share_a_query(pool: Pool) -> None:
    counting = CountingPool(pool)
    tokens = [(await api_keys.create(pool, f"k{i}", ["read"]))[1].encode() for i in range(3)]
    keys = cache_of(counting)
    found = await asyncio.gather(*(keys.find(token) for token in tokens * 20))
    assert {key.name for key in found} == {"k0", "k1", "k2"}
    assert counting.asked <= 2  # the first goes alone where it went before the others came


async def test_a_check_drops_what_was_revoked_and_takes_what_was_changed(pool: Pool) -> None:
    stays, stays_token = await api_keys.create(pool, "stays", ["read"])
    goes, goes_token = await api_keys.create(pool, "goes", ["read"])
    keys = cache_of(pool)
    await keys.find(stays_token.encode())
    await keys.find(goes_token.encode())
    await api_keys.revoke(pool, goes.id)
    await pool.fetch("UPDATE api_key SET scopes = '{read,spend}' WHERE id = $1", stays.id)

    assert await keys.check()

    assert keys.known(goes_token.encode()) is None
    with pytest.raises(Unauthenticated):
        await keys.find(goes_token.encode())
    changed = dataclasses.replace(stays, scopes=frozenset({"read", "spend"}))
    assert keys.known(stays_token.encode()) == changed


async def test_the_check_runs_by_itself(pool: Pool) -> None:
    made, token = await api_keys.create(pool, "backend", ["read"])
    keys = ApiKeys(pool, cache_s=1)
    await keys.find(token.encode())
    await keys.start()
    try:
        await api_keys.revoke(pool, made.id)
        async with asyncio.timeout(20):
            while keys.known(token.encode()) is not None:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.05)
    finally:
        await keys.close()


async def test_while_postgres_is_away_known_keys_go_on(server_dir: Path) -> None:
    clock = Clock()
    with await asyncio.to_thread(Postgres.start, server_dir / "pg", fsync=False) as server:
        await schema.migrate(server.url, shards=1, prefix="hf")
        pool = await open_pool(Config(database_url=server.url))
        _, token = await api_keys.create(pool, "backend", ["spend"])
        _, never_seen = await api_keys.create(pool, "other", ["spend"])
        keys = cache_of(pool, clock)
        known = await keys.find(token.encode())
        await asyncio.to_thread(server.kill)
        with pytest.raises(StoreUnavailable):  # a backend outlives its server until it waits
            await pool.fetchrow("SELECT pg_sleep(60)")

        clock.now += CACHE_S - 1
        assert not await keys.check()
        assert keys.known(token.encode()) is known
        with pytest.raises(StoreUnavailable) as refused:
            await keys.find(never_seen.encode())
        assert refused.value.store == "postgres"

        clock.now += 2
        assert not await keys.check()
        with pytest.raises(StoreUnavailable):  # not Unauthenticated: nobody can say so
            await keys.find(token.encode())

        await asyncio.to_thread(server.restart)
        assert (await keys.find(token.encode())).id == known.id
        assert (await keys.find(never_seen.encode())).name == "other"
        await pool.close()


async def test_closing_leaves_nobody_waiting(pool: Pool) -> None:
    keys = cache_of(pool)
    await keys.start()
    asking = asyncio.create_task(keys.find(b"hf_nosuchkey000_" + b"x" * 43))
    await asyncio.sleep(0)  # it has asked, and waits
    await keys.close()
    done, _ = await asyncio.wait({asking}, timeout=20)
    assert done == {asking}
    assert asking.cancelled() or isinstance(asking.exception(), Unauthenticated)
