"""Puts an archived month back into the journal: the last one, as it was, and its openings go.

One transaction, behind a check of the whole file: a table is made aside and filled, then attached;
entries of other months that had gone along go where they were. Interrupted, nothing was changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import asyncpg

from holdfast import audit
from settlement import archive_file
from settlement.archive import PAUSE_S, TRIES
from settlement.archive_file import Damaged, Manifest, month_name
from settlement.queries import Connection, Pool, sql

_PAGE: Final = 20_000  # entries of one COPY: about 20 MB
_STATEMENT_S: Final = 600.0


class NotRestored(Exception):
    """Nothing was changed; the message says why."""


async def restore(pool: Pool, path: Path, *, actor: str) -> Manifest:
    """Put the month of a manifest or of its file back; answers the manifest.

    Raises NotRestored, and what asyncpg raises.
    """
    name = path.name.removesuffix(".gz").removesuffix("l")  # .jsonl.gz is the file's
    try:
        manifest = archive_file.read_manifest(path.with_name(name))
        archive_file.check_file(path.parent, manifest)
    except (Damaged, OSError) as error:
        raise NotRestored(str(error)) from error
    async with pool.acquire() as conn:
        if not await conn.fetchval(sql("archive_claim")):
            raise NotRestored("somebody else archives this journal right now")
        try:
            async with conn.transaction():
                await conn.execute(sql("archive_timeouts"))
                await _put_back(conn, path.parent, manifest, actor)
        except asyncpg.InsufficientPrivilegeError as error:
            raise NotRestored(f"{error}; call this as the role that owns the tables") from error
        except Damaged as error:
            raise NotRestored(f"the file has changed meanwhile: {error}") from error
    return manifest


async def _put_back(conn: Connection, directory: Path, manifest: Manifest, actor: str) -> None:
    name = month_name(manifest.month)
    rows = await conn.fetch(sql("archive_list"))
    if not rows or rows[-1]["month"] != manifest.month:
        last = f"the last one that is archived is {month_name(rows[-1]['month'])}" if rows else ""
        raise NotRestored(f"{name} cannot be put back: {last or 'no month is archived'}")
    if rows[-1]["sha256"] != manifest.sha256:
        raise NotRestored(f"{name}: another file than this one was archived")
    if await conn.fetchval(sql("restore_table"), manifest.month):
        raise NotRestored(f"{name}: its table is still in Postgres; drop it, or attach it yourself")
    await conn.execute(sql("restore_begin"), manifest.month)
    others = await _fill(conn, directory, manifest)
    await conn.execute(sql("restore_forget"), manifest.month, timeout=_STATEMENT_S)
    await audit.record(
        conn,
        actor=actor,
        action="journal.restore",
        subject=f"month:{name}",
        before={"file": manifest.file, "entries": manifest.entries, "sha256": manifest.sha256},
    )
    await _attach(conn, manifest)
    if others:
        await _copy(conn, "journal", others)


async def _fill(conn: Connection, directory: Path, manifest: Manifest) -> list[dict[str, Any]]:
    """Fill the table of the month; answers the entries of other months, which are few."""
    first, after = archive_file.span_of(manifest.month)
    others: list[dict[str, Any]] = []

    def of_the_month() -> Iterator[dict[str, Any]]:
        for _, row in archive_file.read_month(directory, manifest):
            if first <= row["at"] < after:
                yield row
            else:
                others.append(row)

    entries = of_the_month()
    while page := list(islice(entries, _PAGE)):
        await _copy(conn, f"journal_{manifest.month:%Y_%m}", page)
    return others


async def _copy(conn: Connection, table: str, rows: list[dict[str, Any]]) -> None:
    """By the names of the columns: a later release may have more."""
    await conn.copy_records_to_table(
        table,
        records=[tuple(row.values()) for row in rows],
        columns=list(rows[0]),
        timeout=_STATEMENT_S,
    )


async def _attach(conn: Connection, manifest: Manifest) -> None:
    """As soon as nobody reads the default partition, which is what the journal does as a whole."""
    for attempt in range(TRIES):
        await asyncio.sleep(PAUSE_S if attempt else 0)
        try:
            async with conn.transaction():
                await conn.execute(sql("restore_attach"), manifest.month, timeout=_STATEMENT_S)
        except asyncpg.LockNotAvailableError:
            continue
        return
    raise NotRestored(f"the journal was read for {TRIES} s without a moment in between")
