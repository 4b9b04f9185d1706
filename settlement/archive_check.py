"""Are archives still what was archived? Reads files and manifests, and what Postgres has of them.

    a file       its manifest: size, sums, counts, numbers, and the chain of every shard, again
    files        each shard goes on where the month before it ended
    Postgres     knows the file; its entries, folded again from the openings of the month before,
                 lead to the openings of the month

Looks, and never repairs. The rest of the chain, from the archived end to the mark, is reconcile's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Final

from settlement import archive_file
from settlement.archive_file import Damaged, Manifest, Part, month_name
from settlement.audit import Audit
from settlement.queries import Connection, sql
from settlement.report import Report

_PAGE: Final = 2000  # entries that are folded at a time: about 2 MB
_OPENINGS_S: Final = 600.0  # a million accounts of a shard are read in some seconds

Differ = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Listed:
    """A month that is archived in Postgres, or has a manifest, or both."""

    month: date
    entries: int
    bytes: int
    sha256: str
    file: Path
    found: bool
    """Whether the file is there."""
    archived: bool
    """Whether Postgres has archived it; else a manifest says so alone."""
    kept: bool
    """Whether its table was left in Postgres, detached."""


async def listing(conn: Connection, directory: Path | None) -> list[Listed]:
    """Every month that is archived, or has a manifest in `directory`, oldest first.

    Of a month that Postgres has archived, the file is looked for in `directory`, and where it was
    written. Raises what asyncpg raises, Damaged for a manifest that cannot be read, and OSError.
    """
    found: dict[date, Listed] = {}
    for path in [] if directory is None else archive_file.manifests(directory):
        manifest = archive_file.read_manifest(path)
        file = path.with_name(manifest.file)
        sizes = (manifest.entries, manifest.bytes, manifest.sha256)
        found[manifest.month] = Listed(
            manifest.month, *sizes, file, file.exists(), archived=False, kept=False
        )
    for row in await conn.fetch(sql("archive_list")):
        month, there = row["month"], found.get(row["month"])
        file = Path(row["file"]) if there is None else there.file
        sizes = (row["entries"], row["bytes"], row["sha256"])
        found[month] = Listed(month, *sizes, file, file.exists(), archived=True, kept=row["kept"])
    return [found[month] for month in sorted(found)]


async def verify(directory: Path, conn: Connection | None) -> Report:
    """Check every archive in a directory; without `conn` the files alone.

    A finding names the month first. Raises what asyncpg raises.
    """
    report = Report()
    rows = {} if conn is None else {r["month"]: r for r in await conn.fetch(sql("archive_list"))}
    ends: dict[int, Part] = {}
    seen: set[date] = set()
    for path in archive_file.manifests(directory):
        try:
            manifest = archive_file.read_manifest(path)
        except (Damaged, OSError) as error:
            report.differ("manifest", str(error))
            continue
        seen.add(manifest.month)
        _follow(report, manifest, ends)
        try:
            if conn is None:
                archive_file.check_file(directory, manifest)
                report.entries += manifest.entries
            else:
                await _compare(report, conn, directory, manifest, rows.get(manifest.month))
        except (Damaged, OSError) as error:
            report.differ("file", f"{month_name(manifest.month)}: {error}")
    for month in sorted(rows.keys() - seen):
        what = f"{month_name(month)} is archived, and its manifest is not in {directory}"
        report.differ("missing", f"{what}: it was written to {rows[month]['file']}")
    if not seen and not rows:
        report.skip(f"there is no archive in {directory}")
    return report


def _follow(report: Report, manifest: Manifest, ends: dict[int, Part]) -> None:
    """Does each shard go on where the months before it, as far as they are here, ended?"""
    for part in manifest.shards:
        before = ends.get(part.shard)
        starts = (part.first_seq - 1, part.chain_before)
        if before is not None and starts != (before.last_seq, before.chain):
            report.differ(
                "chain",
                f"{month_name(manifest.month)} begins behind entry {starts[0]}"
                f" ({starts[1] or 'no chain'}), what is before it ends with entry"
                f" {before.last_seq} ({before.chain})",
                shard=part.shard,
            )
        ends[part.shard] = part


async def _compare(
    report: Report,
    conn: Connection,
    directory: Path,
    manifest: Manifest,
    row: Mapping[str, Any] | None,
) -> None:
    """A month's file with what Postgres has of it. Raises Damaged and OSError."""
    name = month_name(manifest.month)
    if row is None:
        # Somebody was stopped between the manifest and the transaction; the next call goes on.
        report.skip(f"{name} is written, and not archived yet: the journal has it still")
    elif (row["sha256"], row["entries"]) != (manifest.sha256, manifest.entries):
        report.differ("archive", f"{name}: another file than this one was archived")
    for part, entries in groupby(
        archive_file.read_month(directory, manifest), key=lambda found: found[0]
    ):
        rows = (entry for _, entry in entries)
        if row is None:
            report.entries += sum(1 for _ in rows)
        else:
            await _fold(report, conn, manifest.month, part, rows)


async def _fold(
    report: Report, conn: Connection, month: date, part: Part, rows: Iterator[Any]
) -> None:
    """Do these entries, from the openings of the month before, lead to those of the month?"""
    name, number = month_name(month), part.shard
    audit = Audit(report, number)
    await audit.read_quarantined(conn)
    begin = last, chain = await audit.begin(conn, before=month)
    if begin != (part.first_seq - 1, part.chain_before):
        what = f"{name} begins behind entry {part.first_seq - 1}, what is archived before it ends"
        report.differ("archive", f"{what} with entry {begin[0]}, or another chain", shard=number)
    while page := list(islice(rows, _PAGE)):
        last, chain = audit.take(page, last, chain)
    end = await conn.fetchrow(sql("opening_end"), number, month)
    if end is None or (end["seq"], end["chain"]) != (last, chain):
        what = f"{name} ends with entry {last}, Postgres says"
        other = "nothing" if end is None else f"{end['seq']} ({end['chain']})"
        report.differ("archive", f"{what} {other}", shard=number)
    written = await conn.fetch(sql("opening_month"), number, month, timeout=_OPENINGS_S)
    openings = {opening["account"]: tuple(opening) for opening in written}
    for folded in audit.openings():
        if openings.pop(folded[0], None) != folded:
            what = f"{name}: its entries do not lead to the opening that Postgres has"
            report.differ("opening", what, shard=number, account=folded[0])
    for account in openings:
        what = f"{name}: Postgres has an opening of it, the file no entry"
        report.differ("opening", what, shard=number, account=account)
