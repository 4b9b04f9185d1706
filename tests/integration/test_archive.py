"""Old months leave the journal for files, and nothing that anybody relies on goes with them."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from holdfast import lists
from holdfast.durability import SettledWaits
from holdfast.embedded import Postgres, Valkey
from holdfast.model import Receipt
from holdfast.postgres import open_pool
from settlement import archive, archive_file
from settlement.archive_restore import restore
from settlement.vetting import Vetting
from tests.commands import outcome
from tests.months import (
    FEBRUARY,
    JANUARY,
    MARCH,
    archived,
    assert_agrees,
    look,
    older_than,
    past,
    put_back,
    settle_then,
    three_months,
    turn,
)
from tests.stack import Stack
from tests.vetted import until

TABLES = ("account", "record", "account_grant", "member", "usage")


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


async def journal(stack: Stack) -> list[dict[str, Any]]:
    return await stack.rows("journal")


async def months_of(stack: Stack) -> set[str]:
    """The months that the journal has, as far as they are past."""
    found = {f"{row['at']:%Y-%m}" for row in await journal(stack)}
    return {month for month in found if month.startswith("2025")}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]


# --- What is archived is in the files, and everything else goes on


async def test_months_are_archived_in_two_calls(stack: Stack, tmp_path: Path) -> None:
    whole = await assert_agrees(stack)
    before = await journal(stack)
    others = {table: await stack.rows(table) for table in TABLES}

    (january,) = await archived(stack, tmp_path, JANUARY)

    assert january.month == JANUARY
    assert await months_of(stack) == {"2025-02", "2025-03"}
    shorter = await assert_agrees(stack)
    assert shorter.entries == whole.entries - january.entries
    for name in ("acme", "other", "third", "quiet", "new"):
        await assert_agrees(stack, name)

    later = await archived(stack, tmp_path, MARCH)

    assert [each.month for each in later] == [FEBRUARY, MARCH]
    assert await months_of(stack) == set()
    assert await archived(stack, tmp_path, MARCH) == []
    await assert_agrees(stack)
    assert {table: await stack.rows(table) for table in TABLES} == others
    found = sorted(
        (line for each in (january, *later) for line in lines(each.file)),
        key=lambda row: (row["shard"], row["seq"]),
    )
    old = [row for row in before if row["at"].year == 2025]
    assert found == [json.loads(archive_file.line_of(row)) for row in old]
    assert len(old) == sum(each.entries for each in (january, *later))
    recorded = await stack.rows("audit", action="journal.archive")
    assert [(row["actor"], row["subject"]) for row in recorded[-3:]] == [
        ("cli:test", f"month:2025-0{number}") for number in (1, 2, 3)
    ]

    await stack.charge("quiet", "again", 3)
    await stack.refund("acme", "r2", "c1", 1)
    await stack.open("newest", grant=5)
    await stack.settle()
    assert (await assert_agrees(stack)).entries == 1 + 4


async def test_a_month_is_put_back_as_it_was(stack: Stack, tmp_path: Path) -> None:
    """Given two archived months, I expect the later one back, byte for byte, then the first."""
    before = await journal(stack)
    first, second = await archived(stack, tmp_path, FEBRUARY)

    await restore(stack.pool, second.file, actor="cli:test")

    assert await months_of(stack) == {"2025-02", "2025-03"}
    await assert_agrees(stack)
    await restore(stack.pool, first.file.with_name("journal-2025-01.json"), actor="cli:test")
    assert await journal(stack) == before
    assert await stack.rows("opening") == await stack.rows("archive") == []
    await assert_agrees(stack)
    again = await archived(stack, tmp_path, FEBRUARY)
    assert [each.sha256 for each in again] == [first.sha256, second.sha256]
    await assert_agrees(stack)


async def test_entries_that_stand_between_those_of_a_month_go_along(
    valkey_server: Valkey, postgres_server: Postgres, tmp_path: Path
) -> None:
    """Given a clock that went back by less than a second over the end of a month, I expect the
    entry of February that stands before one of January in January's file, and back where it was."""
    async with past(valkey_server, postgres_server, shards=1) as stack:
        await stack.open("acme", grant=100)
        for moment in ("2025-02-01T00:00:00.200Z", "2025-01-31T23:59:59.700Z"):
            await turn(stack, moment)
            await stack.charge("acme", moment[-5:-1], 1)
        await turn(stack, "2025-02-03T00:00:00Z")
        await stack.charge("acme", "last", 1)
        await settle_then(stack)
        before = await journal(stack)

        (done,) = await archived(stack, tmp_path, JANUARY)

        assert [row["seq"] for row in lines(done.file)] == [1, 2, 3, 4]
        assert [row["seq"] for row in await journal(stack)] == [5]
        await assert_agrees(stack)
        await restore(stack.pool, done.file, actor="cli:test")
        assert await journal(stack) == before
        await assert_agrees(stack)


async def test_settling_goes_on_while_a_reader_keeps_the_journal(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given somebody who reads the journal for long, I expect tries that end soon, entries that
    settle between them, and the month archived when the reader is gone."""
    monkeypatch.setattr(archive, "PAUSE_S", 0.02)
    monkeypatch.setattr(archive, "TRIES", 1000)  # however slow the machine is
    tries = 0
    attempt = archive._Archiving._attempt

    async def counted(self: Any, *args: Any) -> None:
        nonlocal tries
        tries += 1
        await attempt(self, *args)

    monkeypatch.setattr(archive._Archiving, "_attempt", counted)
    reader = await asyncpg.connect(stack.config.database_url)
    try:
        async with reader.transaction(), asyncio.TaskGroup() as group:
            await reader.fetch("SELECT count(*) FROM journal")
            work = group.create_task(archived(stack, tmp_path, JANUARY))
            await until(lambda: tries >= 2)
            await stack.charge("acme", "meanwhile", 1)
            await stack.settle()
            assert not work.done()
            await reader.execute("ROLLBACK; BEGIN")
    finally:
        await reader.close()

    assert [each.month for each in work.result()] == [JANUARY]
    await assert_agrees(stack)


# --- Who reads old entries does without them


async def test_what_asks_for_old_entries_goes_on(stack: Stack, tmp_path: Path) -> None:
    """Pages of entries begin at the first that is there; who waits for `settled` is told so."""
    first = (await stack.rows("journal", account="acme"))[0]
    number, nonce = first["shard"], stack.state.rows[first["shard"]].nonce
    await archived(stack, tmp_path, JANUARY)
    pool = await open_pool(stack.config)
    try:
        page = await lists.entries(pool, "acme", after="1", limit=2)
        left = await stack.rows("journal", account="acme")
        assert [entry.seq for entry in page.data] == [row["seq"] for row in left[:2]]

        waits = SettledWaits(pool, stack.config.database_url or "", wait_ms=200)
        await waits.start()
        for receipt, of, told in (
            (Receipt(number, first["seq"], "", first["version"]), nonce, "settled"),
            (Receipt(number, first["seq"], "", first["version"]), "0" * 32, "unknown"),
            (Receipt(number, first["seq"], "f" * 40, first["version"]), nonce, "unknown"),
        ):
            assert await waits.wait("acme", receipt, of) == told
        await waits.close()
    finally:
        await pool.close()


# --- What is missing is found


async def test_a_gap_behind_what_is_archived_is_found(stack: Stack, tmp_path: Path) -> None:
    await archived(stack, tmp_path, JANUARY)
    number = stack.shards.number_of("acme")
    end = await stack.pool.fetchval("SELECT seq FROM shard_opening WHERE shard = $1", number)
    gone = (
        "WITH gone AS (DELETE FROM journal WHERE shard = $1 AND seq = $2 RETURNING *)"
        " SELECT * FROM gone"
    )
    (row,) = await stack.pool.fetch(gone, number, end + 1)

    report = await look(stack)

    assert report.exit_code == 1
    assert ("gap", f"the journal has entry {end + 2} behind entry {end}") in [
        (finding.check, finding.detail) for finding in report.findings
    ]
    assert (await look(stack, "acme")).exit_code == 1
    async with stack.pool.acquire() as conn:
        await conn.copy_records_to_table("journal", records=[row])
    await assert_agrees(stack)


DAMAGES = (
    "UPDATE opening SET granted = granted + 1, available = available + 1",
    "UPDATE opening SET version = version + 1",
    "DELETE FROM opening",
    "UPDATE shard_opening SET chain = repeat('a', 40)",
    "DELETE FROM shard_opening",
    "INSERT INTO journal SELECT o.shard, o.seq, '2025-02-01', 'acme', 1, 'open', NULL, NULL, NULL,"
    " NULL, 0, 0, now(), false, o.chain, 'stray' FROM shard_opening o",
)


async def test_openings_that_were_changed_are_found(stack: Stack, tmp_path: Path) -> None:
    await archived(stack, tmp_path, JANUARY)
    saved = ("opening", "shard_opening")
    for table in saved:
        await stack.pool.execute(f"CREATE TABLE saved_{table} AS TABLE {table}")

    for damage in DAMAGES:
        await stack.pool.execute(damage)
        assert (await look(stack)).exit_code == (2 if damage == "DELETE FROM shard_opening" else 1)
        await stack.pool.execute("DELETE FROM journal WHERE entry = 'stray'")
        for table in saved:
            await stack.pool.execute(f"DELETE FROM {table}")
            await stack.pool.execute(f"INSERT INTO {table} TABLE saved_{table}")
    await assert_agrees(stack)


# --- The command


async def test_the_command(stack: Stack, tmp_path: Path) -> None:
    words = ("holdfast", "archive")
    months = ("--older-than", str(older_than(JANUARY)))
    to = ("--to", str(tmp_path))

    code, out, err = await outcome(stack, *words, *months, *to, "--keep", "--by", "ann", "--json")
    assert (code, err) == (0, "")
    (done,) = json.loads(out)["data"]
    assert (done["month"], done["file"]) == ("2025-01", str(tmp_path / "journal-2025-01.jsonl.gz"))
    kept = await stack.pool.fetchval("SELECT count(*) FROM journal_2025_01")
    assert kept == done["entries"]

    code, out, err = await outcome(stack, *words, "list")
    assert (code, err) == (0, "")
    assert "archived, table kept" in out

    code, out, err = await outcome(stack, *words, "verify", str(tmp_path))
    assert (code, err) == (0, "")
    assert out == f"{kept} entries read, 0 differences\n"

    code, _, err = await outcome(stack, *words, "restore", done["file"], "--yes")
    assert code == 1
    assert "its table is still in Postgres" in err
    await stack.pool.execute("DROP TABLE journal_2025_01")
    code, out, err = await outcome(stack, *words, "restore", done["file"], "--yes")
    assert (code, err) == (0, "")
    assert out == f"2025-01: {kept} entries are in the journal again\n"
    await assert_agrees(stack)


# --- Redis is lost


async def test_a_shard_is_rebuilt_whose_old_entries_are_in_its_stream_alone(
    stack: Stack, tmp_path: Path
) -> None:
    """Given a stream that still has what is archived, I expect a rebuild that calls none of it
    lost."""
    await archived(stack, tmp_path, MARCH)

    await Vetting(stack.state).force_rebuild(None, "alice")

    assert await stack.rows("quarantine") == []
    incidents = await stack.rows("incident", kind="rebuild")
    assert {json.loads(row["details"])["kept_in_quarantine"] for row in incidents} == {0}
    await stack.state.refresh(force=True)
    await assert_agrees(stack)
