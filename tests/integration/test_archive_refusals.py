"""What is not archived, and why: then nothing has changed."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from holdfast.embedded import Postgres, Valkey
from settlement import roles
from settlement.archive_restore import NotRestored, restore
from settlement.archive_rules import ArchiveRefused
from tests.months import (
    FEBRUARY,
    JANUARY,
    MARCH,
    archived,
    assert_agrees,
    older_than,
    past,
    put_back,
    settle_then,
    three_months,
    turn,
)
from tests.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="module")
module_fixture: Callable[..., Any] = pytest_asyncio.fixture(scope="module", loop_scope="module")


@module_fixture
async def lived(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    async with past(valkey_server, postgres_server) as one:
        await three_months(one)
        yield one


@pytest_asyncio.fixture(loop_scope="module")
async def stack(lived: Stack) -> AsyncIterator[Stack]:
    """Three months and the present, nothing archived; what a test archives is put back."""
    yield lived
    await put_back(lived)


async def everything(stack: Stack) -> dict[str, Any]:
    """What archiving may change."""
    names = ("journal", "archive", "opening", "shard_opening", "audit")
    found: dict[str, Any] = {name: await stack.rows(name) for name in names}
    found["tables"] = await stack.pool.fetch(
        "SELECT relname FROM pg_class WHERE relname LIKE 'journal%' ORDER BY 1"
    )
    return found


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def refusal(stack: Stack, directory: Path, month: Any = JANUARY) -> str:
    """Why it is refused; nothing is changed."""
    before = await everything(stack)
    with pytest.raises(ArchiveRefused) as refused:
        await archived(stack, directory, month)
    assert await everything(stack) == before
    return str(refused.value)


async def test_a_month_with_entries_that_wait_in_redis(
    valkey_server: Valkey, postgres_server: Postgres, tmp_path: Path
) -> None:
    """Given a shard whose last entries are of January, I expect the month refused while some of
    them wait, and archived when the journal has them all: that none waits, Redis tells."""
    async with past(valkey_server, postgres_server, shards=1) as stack:
        await stack.open("acme", grant=100)
        await stack.settle()
        await stack.charge("acme", "c1", 1)

        assert await refusal(stack, tmp_path) == (
            "2025-01: shard 0 has settled nothing of a later time, and 1 entries of it wait in"
            " Redis to be settled"
        )
        await stack.settle()
        assert await refusal(stack, tmp_path) == (
            "2025-01: entry 3 of shard 0 was settled less than a day ago; call again tomorrow"
        )
        await settle_then(stack)
        await stack.command("HSET", stack.shards.keys[0].meta, "nonce", "0" * 32)
        assert "in another generation" in await refusal(stack, tmp_path)
        await stack.command("HSET", stack.shards.keys[0].meta, "nonce", stack.state.rows[0].nonce)
        assert [each.entries for each in await archived(stack, tmp_path, JANUARY)] == [3]
        await turn(stack, None)
        await assert_agrees(stack)


async def test_a_month_that_is_not_settled_for_good(stack: Stack, tmp_path: Path) -> None:
    pool, number = stack.pool, stack.shards.number_of("acme")
    await pool.execute(
        "INSERT INTO quarantine (origin, shard, seq, generation, account, entry, chain, error)"
        " VALUES ('follows', $1, 1, 1, 'acme', '{}', '', 'x')",
        number,
    )
    assert "1 entries of it or before wait in quarantine" in await refusal(stack, tmp_path)
    await pool.execute("DELETE FROM quarantine")

    text = await pool.fetchval("SELECT entry FROM journal WHERE shard = $1 AND seq = 2", number)
    change = "UPDATE journal SET entry = $2 WHERE shard = $1 AND seq = 2"
    await pool.execute(change, number, text.replace("1000", "1001"))
    assert f"the journal of shard {number} does not add up" in await refusal(stack, tmp_path)
    await pool.execute(change, number, text)

    stray = "UPDATE journal SET at = $2 WHERE shard = $1 AND seq = 2"
    at = await pool.fetchval("SELECT at FROM journal WHERE shard = $1 AND seq = 2", number)
    await pool.execute(stray, number, at.replace(year=2024))
    said = await refusal(stack, tmp_path)
    assert "1 entries of it or before stand in the default partition" in said
    await pool.execute(said.partition(": SELECT ")[2].join(("SELECT ", "")))
    await pool.execute(stray, number, at)

    conn = await asyncpg.connect(stack.config.database_url)
    try:
        await conn.execute("SELECT pg_advisory_lock(4739208)")
        assert "somebody else archives" in await refusal(stack, tmp_path)
    finally:
        await conn.close()

    (tmp_path / "file").write_text("")
    assert "takes no file" in await refusal(stack, tmp_path / "file")
    assert names(tmp_path) == ["file"]
    await pool.execute("SELECT journal_detach('2024-01-01', false)")
    assert len(await archived(stack, tmp_path, JANUARY)) == 1


async def test_who_does_not_own_the_journal_archives_nothing(stack: Stack, tmp_path: Path) -> None:
    """Given the role that the service runs as, I expect a refusal that says as whom to call."""
    role = f"role_{stack.database}"
    await stack.pool.execute(f"CREATE ROLE {role}")
    owner = stack.pool
    try:
        async with owner.acquire() as conn:
            await roles.grant_to(conn, role, "cli:test")
        stack.pool = await asyncpg.create_pool(
            stack.config.database_url, min_size=0, max_size=2, server_settings={"role": role}
        )
        assert "as the role that owns the tables" in await refusal(stack, tmp_path)
        await stack.pool.close()
        stack.pool = owner
        (done,) = await archived(stack, tmp_path, JANUARY)
        stack.pool = await asyncpg.create_pool(
            stack.config.database_url, min_size=0, max_size=2, server_settings={"role": role}
        )
        await assert_agrees(stack)
        with pytest.raises(NotRestored, match="as the role that owns the tables"):
            await restore(stack.pool, done.file, actor="cli:test")
        await stack.pool.close()
    finally:
        stack.pool = owner
        await owner.execute(f"DROP OWNED BY {role}")
        await owner.execute(f"DROP ROLE {role}")


async def test_another_archive_is_not_written_over(
    stack: Stack, valkey_server: Valkey, postgres_server: Postgres, tmp_path: Path
) -> None:
    """Given a directory with the months of another database, I expect it left as it is."""
    async with past(valkey_server, postgres_server) as other:
        await other.open("stranger")
        await three_months(other)
        (theirs,) = await archived(other, tmp_path, JANUARY)
    was = theirs.file.read_bytes()

    assert "has other entries than this journal" in await refusal(stack, tmp_path)
    manifest = theirs.file.with_name("journal-2025-01.json")
    text = manifest.read_text()
    manifest.unlink()
    assert "is there without a manifest" in await refusal(stack, tmp_path)
    manifest.write_text("{}")
    assert "is no manifest" in await refusal(stack, tmp_path)
    manifest.write_text(text)
    assert theirs.file.read_bytes() == was
    assert names(tmp_path) == ["journal-2025-01.json", "journal-2025-01.jsonl.gz"]


async def test_months_that_are_not_old_enough_stay(stack: Stack, tmp_path: Path) -> None:
    """However few months are asked for, and however long records live in Redis."""
    now = older_than(JANUARY)
    assert await archived(stack, tmp_path, JANUARY, months=now + 1) == []
    assert await archived(stack, tmp_path, JANUARY, months=0, key_window_s=10**9) == []
    found = await archived(stack, tmp_path, JANUARY, months=0, dry_run=True)
    assert [each.month for each in found] == [JANUARY, FEBRUARY, MARCH]


async def test_a_dry_run_changes_nothing(stack: Stack, tmp_path: Path) -> None:
    before = await everything(stack)

    found = await archived(stack, tmp_path / "new", MARCH, dry_run=True)

    assert await everything(stack) == before
    assert names(tmp_path) == []
    done = await archived(stack, tmp_path / "new", MARCH)
    assert [each.entries for each in found] == [each.entries for each in done]
