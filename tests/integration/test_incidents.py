"""Incidents in a real Postgres."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from holdfast.embedded import Postgres, Valkey
from settlement import incidents
from tests.stack import Stack


@pytest.fixture
async def conn(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Any]:
    async with (
        Stack(valkey_server.url, postgres_server.url, shards=1, vet=False) as stack,
        stack.pool.acquire() as conn,
    ):
        yield conn


async def test_incidents_are_listed_newest_first_and_closed_once(conn: Any) -> None:
    first = await incidents.record(conn, "rebuild", "one", shard=3, mark=7)
    second = await incidents.record(conn, "quarantine", "two", account="acme")

    found = await incidents.listing(conn)
    assert [incident["id"] for incident in found] == [second, first]
    assert found[1]["details"] == {"mark": 7}
    assert (found[0]["account"], found[1]["shard"]) == ("acme", 3)
    assert [i["id"] for i in await incidents.listing(conn, before=second)] == [first]
    assert [i["id"] for i in await incidents.listing(conn, limit=1)] == [second]

    assert await incidents.close(conn, second, "alice")
    assert not await incidents.close(conn, second, "bob")
    assert not await incidents.close(conn, 10**9, "alice")
    assert [i["id"] for i in await incidents.listing(conn, only_open=True)] == [first]
    assert (await incidents.listing(conn))[0]["closed_by"] == "alice"


async def test_condition_that_lasts_is_one_incident_an_episode(conn: Any) -> None:
    begin, subject = incidents.begin, "redis 10.0.0.1:6379"
    number = await begin(conn, "clock", "off", subject=subject)
    assert number is not None
    assert await begin(conn, "clock", "still off", subject=subject) is None
    assert await begin(conn, "clock", "another one", subject="redis 10.0.0.2:6379") is not None
    await incidents.end(conn, "clock", subject=subject)
    await incidents.end(conn, "clock", subject=subject)
    assert await begin(conn, "clock", "off again", subject=subject) is not None
    assert len(await incidents.listing(conn, only_open=True)) == 2


async def test_kind_that_nobody_has_described_is_refused(conn: Any) -> None:
    with pytest.raises(KeyError):
        await incidents.record(conn, "surprise", "?")
