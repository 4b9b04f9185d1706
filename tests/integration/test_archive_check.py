"""What becomes of an archive: killed while it is made, tampered with, moved."""

import asyncio
import gzip
import json
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from holdfast.embedded import Postgres, Valkey
from settlement import archive_file, failpoints
from settlement.archive_check import listing, verify
from settlement.archive_restore import NotRestored, restore
from settlement.report import Report
from tests.commands import command
from tests.months import FEBRUARY, JANUARY, archived, assert_agrees, past, put_back, three_months
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


async def check(stack: Stack, directory: Path, *, offline: bool = False) -> Report:
    async with stack.pool.acquire() as conn:
        return await verify(directory, None if offline else conn)


# --- Killed


async def test_killed_at_any_point_it_is_called_again(stack: Stack, tmp_path: Path) -> None:
    """Given a kill at each point, I expect the month whole in Postgres, or in a file that is
    checked; stores that agree; and a second call that goes on to the same end."""
    whole = await stack.rows("journal")
    january = [row for row in whole if row["at"].month == 1 and row["at"].year == 2025]
    outcomes = {}
    for point in failpoints.ARCHIVE_POINTS:
        directory = tmp_path / point
        words = ("tests.months", str(directory))
        settings = {"test_failpoint": f"{point}:1", "test_clock": True}
        async with command(stack, *words, **settings) as killed:
            _, said = await asyncio.wait_for(killed.communicate(), 60)
            assert killed.returncode == -signal.SIGKILL, said.decode()

        await assert_agrees(stack)
        rows = await stack.rows("journal")
        outcomes[point] = gone = len(rows) == len(whole) - len(january)
        assert gone or rows == whole
        assert (await stack.row("archive") is not None) == gone
        if gone:
            assert (await check(stack, directory)).exit_code == 0
        second = await archived(stack, directory, JANUARY)
        assert len(second) == (0 if gone else 1)
        await assert_agrees(stack)
        report = await check(stack, directory)
        assert (report.findings, report.exit_code, report.entries) == ([], 0, len(january))

        await restore(stack.pool, directory / "journal-2025-01.json", actor="cli:test")
        assert await stack.rows("journal") == whole
    assert outcomes.pop("archive_commit_sent") in (True, False)  # either, as it happens
    assert {point for point, gone in outcomes.items() if gone} == {"archive_done"}


async def test_what_was_written_before_a_kill_is_listed_as_unfinished(
    stack: Stack, tmp_path: Path
) -> None:
    """Given a file and a manifest of a month that Postgres still has, I expect both to be told."""
    (done,) = await archived(stack, tmp_path, JANUARY)
    await restore(stack.pool, done.file, actor="cli:test")

    report = await check(stack, tmp_path)

    assert (report.findings, report.exit_code) == ([], 2)
    assert report.uncompared == [
        "2025-01 is written, and not archived yet: the journal has it still"
    ]
    async with stack.pool.acquire() as conn:
        (listed,) = await listing(conn, tmp_path)
        assert (listed.month, listed.found, listed.archived) == (JANUARY, True, False)
        assert await listing(conn, None) == []


# --- Tampered with

FILE, MANIFEST = "journal-2025-01.jsonl.gz", "journal-2025-01.json"
Damage = Callable[[Path], Any]


def flip(directory: Path) -> None:
    data = bytearray((directory / FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (directory / FILE).write_bytes(data)


def cut(directory: Path) -> None:
    data = (directory / FILE).read_bytes()
    (directory / FILE).write_bytes(data[:-9])


def manifest(**changes: Any) -> Damage:
    """A manifest that says otherwise."""

    def damage(directory: Path) -> None:
        path = directory / MANIFEST
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def rewritten(change: Callable[[list[dict[str, Any]]], Any]) -> Damage:
    """Other lines, and a manifest whose sums are theirs: by somebody who knows the format."""

    def damage(directory: Path) -> None:
        rows = [json.loads(line) for line in gzip.decompress((directory / FILE).read_bytes())
                .splitlines()]  # fmt: skip
        change(rows)
        lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        packed = gzip.compress(lines, mtime=0)
        (directory / FILE).write_bytes(packed)
        sums = {
            "bytes": len(packed),
            "sha256": archive_file.sha256(packed).hexdigest(),
            "lines_sha256": archive_file.sha256(lines).hexdigest(),
        }
        manifest(**sums)(directory)

    return damage


def of_the_first_part(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def damage(directory: Path) -> None:
        document = json.loads((directory / MANIFEST).read_text())
        change(document["shards"][0])
        manifest(shards=document["shards"])(directory)

    return damage


def less_by_one(part: dict[str, Any]) -> None:
    part["entries"] -= 1
    part["last_seq"] -= 1


OFFLINE: dict[str, tuple[Damage, str]] = {
    "a byte": (flip, "has another SHA-256 than its manifest says"),
    "the end": (cut, "bytes, not"),
    "no file": (lambda at: (at / FILE).unlink(), "No such file"),
    "no manifest": (lambda at: (at / MANIFEST).write_text("{"), "is no manifest"),
    "a sum": (manifest(sha256="0" * 64), "has another SHA-256 than its manifest says"),
    "a count": (manifest(entries=1), "its entries are not the sum of its shards"),
    "a month": (manifest(month="2025-02"), "so must its names be"),
    "a format": (manifest(format=2), "of a format that this release does not know"),
    "a part": (of_the_first_part(less_by_one), "its entries are not the sum of its shards"),
    "a chain": (of_the_first_part(lambda p: p.update(chain="a" * 40)), "ends with another chain"),
    "a beginning": (
        of_the_first_part(lambda p: p.update(chain_before="a" * 40)),
        "entry 1 of shard 0 does not continue the chain",
    ),
    "an amount": (
        rewritten(lambda rows: rows[1].update(entry=rows[1]["entry"].replace("1000", "1001"))),
        "entry 2 of shard 0 does not continue the chain",
    ),
    "a line less": (rewritten(lambda rows: rows.pop()), "ends before entry"),
    "a line more": (rewritten(lambda rows: rows.append(rows[-1])), "has more entries"),
    "a line twice": (rewritten(lambda rows: rows.insert(1, rows[0])), "in the place of"),
}
# What only Postgres knows to be otherwise: columns are not what the chain is computed over.
ONLINE: dict[str, tuple[Damage, str]] = {
    "a column": (
        rewritten(lambda rows: rows[1].update(available=7)),
        "the columns of entry 2 are not what it says",
    ),
    "all sums": (rewritten(lambda rows: None), "another file than this one was archived"),
}
STORED: dict[str, tuple[str, str]] = {
    "UPDATE opening SET version = version + 1 WHERE account = 'acme' AND month = '2025-01-01'": (
        "its entries do not lead to the opening that Postgres has",
        "acme",
    ),
    "UPDATE shard_opening SET chain = repeat('a', 40) WHERE month = '2025-01-01'": (
        "2025-01 ends with entry",
        "",
    ),
    "UPDATE archive SET entries = entries + 1": ("another file than this one was archived", ""),
    "INSERT INTO opening SELECT shard, 'nobody', month, version, last_seq, available, held, base,"
    " debt, granted, refunded, spent, forfeited FROM opening WHERE account = 'quiet'": (
        "Postgres has an opening of it, the file no entry",
        "nobody",
    ),
}


async def test_what_was_tampered_with_is_found(stack: Stack, tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    await archived(stack, good, FEBRUARY)
    for offline in (True, False):
        assert (await check(stack, good, offline=offline)).exit_code == 0
    damages = {**OFFLINE, **ONLINE}
    for what, (damage, says) in damages.items():
        shutil.copytree(good, bad)
        damage(bad)
        for offline in (True, False):
            report = await check(stack, bad, offline=offline)
            told = [finding.detail for finding in report.findings]
            if offline and what in ONLINE:
                assert told == [], what
            else:
                assert any(says in detail for detail in told), (what, told)
                assert report.exit_code == 1
        shutil.rmtree(bad)

    (good / MANIFEST).rename(tmp_path / MANIFEST)
    (finding,) = (await check(stack, good)).findings
    assert finding.detail.startswith(f"2025-01 is archived, and its manifest is not in {good}")
    (tmp_path / MANIFEST).rename(good / MANIFEST)
    assert (await check(stack, tmp_path / "nowhere", offline=True)).exit_code == 2


async def test_what_postgres_has_otherwise_is_found(stack: Stack, tmp_path: Path) -> None:
    await archived(stack, tmp_path, FEBRUARY)
    saved = ("archive", "shard_opening", "opening")
    for table in saved:
        await stack.pool.execute(f"CREATE TABLE saved_{table} AS TABLE {table}")
    for damage, (says, account) in STORED.items():
        await stack.pool.execute(damage)
        found = (await check(stack, tmp_path)).findings
        assert any(says in f.detail and (f.account or "") == account for f in found), found
        await stack.pool.execute("DELETE FROM archive")
        for table in saved:
            await stack.pool.execute(f"INSERT INTO {table} TABLE saved_{table}")
    assert (await check(stack, tmp_path)).exit_code == 0
    await stack.pool.execute(f"DROP TABLE {', '.join(f'saved_{table}' for table in saved)}")


async def test_files_of_two_journals_do_not_go_on(
    stack: Stack, valkey_server: Valkey, postgres_server: Postgres, tmp_path: Path
) -> None:
    """Given January of one database and February of another, I expect the seam found offline."""
    await archived(stack, tmp_path / "one", FEBRUARY)
    async with past(valkey_server, postgres_server) as other:
        await other.open("stranger")
        await three_months(other)
        await archived(other, tmp_path / "two", JANUARY)
    shutil.copytree(tmp_path / "one", tmp_path / "both")
    for name in (FILE, MANIFEST):
        shutil.copy(tmp_path / "two" / name, tmp_path / "both" / name)

    report = await check(stack, tmp_path / "both", offline=True)

    assert [(finding.check, finding.shard) for finding in report.findings] == [
        ("chain", stack.shards.number_of("stranger"))
    ]


async def test_what_cannot_be_put_back_is_refused(stack: Stack, tmp_path: Path) -> None:
    first, second = await archived(stack, tmp_path, FEBRUARY)
    before = await stack.rows("journal")
    with pytest.raises(NotRestored, match="the last one that is archived is 2025-02"):
        await restore(stack.pool, first.file, actor="cli:test")
    conn = await asyncpg.connect(stack.config.database_url)
    try:
        await conn.execute("SELECT pg_advisory_lock(4739208)")
        with pytest.raises(NotRestored, match="somebody else archives"):
            await restore(stack.pool, second.file, actor="cli:test")
    finally:
        await conn.close()
    was = second.file.read_bytes()
    second.file.write_bytes(was + b"x")
    with pytest.raises(NotRestored, match="bytes, not"):
        await restore(stack.pool, second.file, actor="cli:test")
    second.file.write_bytes(was)
    change = "UPDATE archive SET sha256 = $2 WHERE month = $1"
    await stack.pool.execute(change, FEBRUARY, "0" * 64)
    with pytest.raises(NotRestored, match="another file than this one"):
        await restore(stack.pool, second.file, actor="cli:test")
    await stack.pool.execute(change, FEBRUARY, second.sha256)
    assert await stack.rows("journal") == before
