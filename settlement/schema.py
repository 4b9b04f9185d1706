"""The schema in Postgres: the sum of `settlement/sql/migrations/`, in order, each applied once.

    SchemaError            its message says what to do
    ├── SchemaBehind       `holdfast migrate` has work to do
    ├── SchemaNewer        this code is older than the database
    ├── ChecksumChanged    a migration was edited after it was applied
    └── SettingDiffers     SHARDS or prefix are not what the database was created with

A migration file is `NNNN_name.sql`. It is applied in a transaction with its row in `migration`, so
that it is there wholly or not at all; an advisory lock keeps two runners apart.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Any, TypeAlias

import asyncpg

from settlement.partitions import make_partitions
from settlement.queries import Connection, sql

Target: TypeAlias = str | Connection
"""A Postgres URL, or a connection that nobody else uses meanwhile."""

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


class SchemaError(Exception):
    """The database is not what this code works with."""


class SchemaBehind(SchemaError):
    """Migrations are missing in the database."""


class SchemaNewer(SchemaError):
    """The database has migrations that this code does not know."""


class ChecksumChanged(SchemaError):
    """A migration is not what was applied under its number."""


class SettingDiffers(SchemaError):
    """What was fixed when the database was created is configured otherwise."""


@dataclass(frozen=True)
class Migration:
    """One file of `settlement/sql/migrations/`."""

    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, hexadecimal."""
        return sha256(self.text.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.number:04d}_{self.name}"


def migrations() -> list[Migration]:
    """All migrations of this code, in order. Raises ValueError where a number is missing."""
    found = []
    for file in files("settlement.sql").joinpath("migrations").iterdir():
        if match := _FILE.fullmatch(file.name):
            text = file.read_text(encoding="utf-8")
            found.append(Migration(int(match[1]), match[2], text))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations are not numbered 1, 2, 3, ...: {[str(m) for m in found]}")
    return found


async def migrate(
    target: Target, *, shards: int, prefix: str, known: Sequence[Migration] | None = None
) -> list[str]:
    """Apply what is missing, and answer the names of it. Repeating it changes nothing.

    The first time it fixes `shards` and `prefix` for the life of the database. `known` stands for
    the files (tests). Raises SchemaError, and what asyncpg raises.
    """
    known = migrations() if known is None else known
    async with _connection(target) as conn:
        await conn.execute(sql("migration_lock"))
        try:
            await conn.execute(sql("create_migration_table"))
            done = _compare(known, await conn.fetch(sql("migration_rows")))
            if done:
                await _compare_settings(conn, shards, prefix)
            for migration in known[done:]:
                async with conn.transaction():
                    await conn.execute(migration.text)
                    if migration.number == 1:
                        await _create(conn, shards, prefix)
                    await conn.execute(
                        sql("migration_insert"),
                        migration.number,
                        migration.name,
                        migration.checksum,
                    )
            await make_partitions(conn)
        finally:
            if not conn.is_closed():
                await conn.execute(sql("migration_unlock"))
    return [str(migration) for migration in known[done:]]


async def check(
    target: Target, *, shards: int, prefix: str, known: Sequence[Migration] | None = None
) -> None:
    """Is this database what this code works with, under this configuration? Raises SchemaError."""
    known = migrations() if known is None else known
    async with _connection(target) as conn:
        done = 0
        if await conn.fetchval(sql("migration_exists")):
            done = _compare(known, await conn.fetch(sql("migration_rows")))
        if done < len(known):
            raise SchemaBehind(
                f"the database lacks migration {known[done]}: run `holdfast migrate`"
            )
        await _compare_settings(conn, shards, prefix)


@asynccontextmanager
async def _connection(target: Target) -> AsyncIterator[Connection]:
    if not isinstance(target, str):
        yield target
        return
    conn = await asyncpg.connect(target)
    try:
        yield conn
    finally:
        await conn.close()


def _compare(known: Sequence[Migration], applied: Sequence[Any]) -> int:
    """How many of `known` were applied. Raises where they are not what was applied."""
    for number, row in enumerate(applied, start=1):
        if row["number"] != number or number > len(known):
            raise SchemaNewer(
                f"the database has migration {row['number']:04d}_{row['name']}, which this release"
                " does not know: run the release that applied it, or a later one"
            )
        if known[number - 1].checksum != row["checksum"]:
            raise ChecksumChanged(
                f"migration {known[number - 1]} is not what was applied to this database: restore"
                " the file, and put the change into a new migration"
            )
    return len(applied)


async def _create(conn: Connection, shards: int, prefix: str) -> None:
    """What the first migration fixes: its settings, and a row a shard."""
    await conn.execute(sql("setting_insert"), "shards", str(shards))
    await conn.execute(sql("setting_insert"), "prefix", prefix)
    await conn.execute(sql("shard_insert"), shards)


async def _compare_settings(conn: Connection, shards: int, prefix: str) -> None:
    fixed = {row["name"]: row["value"] for row in await conn.fetch(sql("setting_rows"))}
    for name, value in (("shards", str(shards)), ("prefix", prefix)):
        if fixed.get(name) != value:
            raise SettingDiffers(
                f"this database was created with {name} = {fixed.get(name)}, not {value}: set"
                f" HOLDFAST_{name.upper()}={fixed.get(name)}, or use another database"
            )
