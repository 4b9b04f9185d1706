"""The schema is the sum of its migrations, and refuses what it is not."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from importlib.resources import files
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from holdfast.embedded import Postgres
from settlement import schema
from settlement.partitions import MONTHS_AHEAD, make_partitions
from settlement.queries import sql
from settlement.schema import (
    ChecksumChanged,
    Migration,
    SchemaBehind,
    SchemaNewer,
    SettingDiffers,
    check,
    migrate,
)

KNOWN = schema.migrations()
LATER = Migration(len(KNOWN) + 1, "later", "-- One more.\nCREATE TABLE later (id integer)")


@pytest.fixture
async def database(postgres_server: Postgres) -> AsyncIterator[str]:
    """The URL of an empty database."""
    name = f"schema_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(postgres_server.url)
    await admin.execute(f"CREATE DATABASE {name}")
    yield urlunsplit(urlsplit(postgres_server.url)._replace(path=f"/{name}"))
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


async def value(database: str, query: str) -> object:
    conn = await asyncpg.connect(database)
    try:
        return await conn.fetchval(query)
    finally:
        await conn.close()


async def test_migrating_applies_every_file_once(database: str) -> None:
    assert await migrate(database, shards=4, prefix="hf") == [str(m) for m in KNOWN]
    assert await migrate(database, shards=4, prefix="hf") == []
    assert await value(database, "SELECT count(*) FROM migration") == len(KNOWN)
    await check(database, shards=4, prefix="hf")


async def test_the_first_migration_makes_a_row_for_every_shard(database: str) -> None:
    await migrate(database, shards=5, prefix="hf")

    assert await value(database, "SELECT array_agg(id ORDER BY id) FROM shard") == [0, 1, 2, 3, 4]
    assert await value(database, "SELECT bool_and(state = 'vetting') FROM shard") is True


async def test_it_goes_on_where_it_stopped(database: str) -> None:
    await migrate(database, shards=4, prefix="hf")

    applied = await migrate(database, shards=4, prefix="hf", known=[*KNOWN, LATER])

    assert applied == [str(LATER)]
    assert await value(database, "SELECT to_regclass('later')::text") == "later"


async def test_two_at_once_apply_every_file_once(database: str) -> None:
    applied = await asyncio.gather(
        *(migrate(database, shards=4, prefix="hf") for _ in range(2)),
    )

    assert sorted(applied) == [[], [str(m) for m in KNOWN]]


async def test_a_migration_that_fails_leaves_nothing(database: str) -> None:
    await migrate(database, shards=4, prefix="hf")
    broken = replace(LATER, text="CREATE TABLE later (id integer); SELECT 1 / 0")

    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(database, shards=4, prefix="hf", known=[*KNOWN, broken])

    assert await value(database, "SELECT to_regclass('later')::text") is None
    assert await migrate(database, shards=4, prefix="hf", known=[*KNOWN, LATER]) == [str(LATER)]


async def test_an_edited_migration_is_refused(database: str) -> None:
    await migrate(database, shards=4, prefix="hf")
    edited = [replace(KNOWN[0], text=KNOWN[0].text + "\n-- a note"), *KNOWN[1:]]

    for call in (migrate, check):
        with pytest.raises(ChecksumChanged, match="0001_core is not what was applied"):
            await call(database, shards=4, prefix="hf", known=edited)


async def test_a_newer_schema_is_refused(database: str) -> None:
    await migrate(database, shards=4, prefix="hf", known=[*KNOWN, LATER])

    for call in (migrate, check):
        with pytest.raises(SchemaNewer, match=f"{LATER}, which this release does not know"):
            await call(database, shards=4, prefix="hf")


async def test_an_older_schema_is_migrated_first(database: str) -> None:
    with pytest.raises(SchemaBehind, match="run `holdfast migrate`"):
        await check(database, shards=4, prefix="hf")

    await migrate(database, shards=4, prefix="hf")

    with pytest.raises(SchemaBehind, match=f"lacks migration {LATER}"):
        await check(database, shards=4, prefix="hf", known=[*KNOWN, LATER])


@pytest.mark.parametrize(
    ("shards", "prefix", "says"),
    [(8, "hf", "set HOLDFAST_SHARDS=4,"), (4, "other", "set HOLDFAST_PREFIX=hf,")],
)
async def test_what_the_database_was_created_with_stays(
    database: str, shards: int, prefix: str, says: str
) -> None:
    await migrate(database, shards=4, prefix="hf")

    for call in (migrate, check):
        with pytest.raises(SettingDiffers, match=says):
            await call(database, shards=shards, prefix=prefix)


async def test_a_refusal_is_one_line(database: str) -> None:
    await migrate(database, shards=4, prefix="hf")

    with pytest.raises(SettingDiffers) as refusal:
        await check(database, shards=8, prefix="hf")

    assert "\n" not in str(refusal.value)


async def test_the_journal_has_a_partition_a_month(database: str) -> None:
    await migrate(database, shards=1, prefix="hf")
    conn = await asyncpg.connect(database)
    try:
        names = await conn.fetchval(
            "SELECT array_agg(inhrelid::regclass::text) FROM pg_inherits"
            " WHERE inhparent = 'journal'::regclass"
        )
        assert len(names) == MONTHS_AHEAD + 2  # this month's, and the default one
        assert await make_partitions(conn) == 0
    finally:
        await conn.close()


async def test_a_late_partition_takes_over_what_the_default_one_has(database: str) -> None:
    await migrate(database, shards=1, prefix="hf")
    conn = await asyncpg.connect(database)
    try:
        for at in ("2031-01-31 23:59:59.999+00", "2031-02-01 00:00+00", "2031-02-28 23:59+00"):
            await conn.execute(
                "INSERT INTO journal (shard, seq, at, account, version, type, available, held,"
                " chain, entry) SELECT 0, count(*) + 1, $1::text::timestamptz, 'a', 1, 'open', 0,"
                " 0, '', '{}' FROM journal",
                at,
            )

        assert await conn.fetchval("SELECT journal_partition('2031-02-01')") is True

        assert await conn.fetchval("SELECT count(*) FROM journal_2031_02") == 2
        assert await conn.fetchval("SELECT count(*) FROM journal_other") == 1
        assert await conn.fetchval("SELECT count(*) FROM journal") == 3
    finally:
        await conn.close()


def test_every_statement_says_what_it_is_for() -> None:
    names = [file.name for file in files("settlement.sql").iterdir() if file.name.endswith(".sql")]

    assert "shard_rows.sql" in names
    for name in names:
        assert sql(name.removesuffix(".sql")), name  # raises where the description is missing
