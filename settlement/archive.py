"""Archives old months of the journal: to a file each, and what they led to into openings.

Of a month, oldest first, nothing left out between:

    looked at ──▶ file ──▶ manifest ──▶ read again ──▶ one transaction: openings, partition gone

Failures. Until that transaction commits, the month is whole in Postgres, and files that were
written are found again, compared, and taken as they are; from then on the file is there, synced and
checked. So whoever is killed anywhere calls again. Only one archives at a time.

A month is archived with all entries of a shard up to its last one of that month: the journal keeps
a suffix of every shard, numbered and chained. Where clocks were set, some of them may be of a later
month by their time; those go along (`_CARRIED_MAX`). What would be refused is refused before
Postgres is changed, and says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import asyncpg

from holdfast import audit
from holdfast.shards import Shards
from settlement import archive_file, failpoints
from settlement.archive_file import Damaged, Manifest, MonthWriter, NotWritten, Part
from settlement.archive_rules import SETTLED_S, STATEMENT_S, ArchiveRefused, Month, examine
from settlement.audit import Audit
from settlement.queries import Connection, Pool, sql
from settlement.report import Report

_PAGE: Final = 2000  # rows of one fetch: about 2 MB
# Times that the journal is asked for alone, and the pause between: a reconcile of a shard, which
# reads the journal in one snapshot, is over by then.
TRIES: Final = 60
PAUSE_S: Final = 1.0
# Entries of other months that go along. A wrong clock closes its shards within a lease, 2 s; at
# full speed one makes fewer than 20,000 entries in that time.
_CARRIED_MAX: Final = 100_000

_OPENING_COLUMNS: Final = (
    *("shard", "month", "account", "version", "last_seq", "available", "held"),
    *("base", "debt", "granted", "refunded", "spent", "forfeited"),
)


@dataclass(frozen=True, slots=True)
class Archived:
    """A month that is archived; in a dry run, one that would be."""

    month: date
    entries: int
    file: Path
    bytes: int | None
    """Of the file; unknown in a dry run."""
    sha256: str | None


async def archive(
    pool: Pool,
    shards: Shards,
    directory: Path,
    *,
    months: int,
    key_window_s: int,
    version: str,
    actor: str,
    keep: bool = False,
    dry_run: bool = False,
) -> AsyncIterator[Archived]:
    """Archive every month that ended at least `months` months ago; yields each when it is done.

    `key_window_s` is how long records live in Redis (`config.key_window_s`); a month is older than
    that, and than a day, in any case. `keep` leaves the detached table of a month in Postgres.
    `directory` is made if it is not there. With `dry_run` nothing is written.

    Raises ArchiveRefused at the first month that is refused or cannot be written, and what asyncpg
    raises. Months that were yielded before stay archived.
    """
    async with pool.acquire() as conn:
        if not await conn.fetchval(sql("archive_claim")):
            raise ArchiveRefused("somebody else archives this journal right now")
        work = _Archiving(conn, shards, directory, version=version, actor=actor, keep=keep)
        old_s = float(max(SETTLED_S, key_window_s))
        for row in await conn.fetch(sql("archive_months"), months, old_s):
            month = Month(row["month"])
            if row["archived"]:
                raise ArchiveRefused(
                    f"{month.name} is archived already, and the journal has a partition of it again"
                )
            try:
                await examine(conn, shards, month)
                done = work.foresee(month) if dry_run else await work.archive(month)
            except asyncpg.InsufficientPrivilegeError as error:
                raise ArchiveRefused(
                    f"{month.name}: {error}; call this as the role that owns the tables, as which"
                    " `holdfast migrate` runs"
                ) from error
            yield done


class _Archiving:
    """The archiving of one command, on one connection."""

    def __init__(
        self,
        conn: Connection,
        shards: Shards,
        directory: Path,
        *,
        version: str,
        actor: str,
        keep: bool,
    ) -> None:
        self.conn = conn
        self.shards = shards
        self.directory = directory
        self._version = version
        self._actor = actor
        self._keep = keep
        self._foreseen: dict[int, int] = {}
        """Per shard the last entry of the months that a dry run has been through."""

    def foresee(self, month: Month) -> Archived:
        """What would be archived. Raises ArchiveRefused where its manifest cannot be read."""
        self._known(month)
        entries = 0
        for row in month.ends:
            entries += row["last"] - max(row["seq"], self._foreseen.get(row["shard"], 0))
            self._foreseen[row["shard"]] = row["last"]
        file = self.directory / archive_file.file_name(month.first)
        return Archived(month.first, entries, file, None, None)

    def _known(self, month: Month) -> Manifest | None:
        """The manifest that is there already. Raises ArchiveRefused where it cannot be read."""
        try:
            path = self.directory / archive_file.manifest_name(month.first)
            return archive_file.read_manifest(path)
        except FileNotFoundError:
            return None
        except (Damaged, OSError) as error:
            raise ArchiveRefused(f"{month.name}: {error}; move it out of the way") from error

    # The file

    async def archive(self, month: Month) -> Archived:
        """Archive a month that was examined. Raises as the function does."""
        await self.conn.execute(sql("opening_forget"))
        await self.conn.execute(sql("opening_gathered"))
        try:
            manifest = await self._write(month)
        except NotWritten as error:
            raise ArchiveRefused(f"{month.name}: {error}") from error
        try:
            await asyncio.to_thread(archive_file.check_file, self.directory, manifest)
        except (Damaged, OSError) as error:
            raise ArchiveRefused(
                f"{month.name}: what was written cannot be read: {error}"
            ) from error
        failpoints.hit("archive_checked")
        await self._take_away(month, manifest)
        failpoints.hit("archive_done")
        await self.conn.execute(sql("opening_forget"))
        file = self.directory / manifest.file
        return Archived(month.first, manifest.entries, file, manifest.bytes, manifest.sha256)

    async def _write(self, month: Month) -> Manifest:
        """Write file and manifest, or find that they are there; answers the manifest as it is."""
        with MonthWriter(self.directory, month.first) as writer:
            for row in month.ends:
                await self._write_shard(writer, month, row)
            made = writer.finish(self._version)
            known = self._known(month)
            if known is not None:
                if not known.same_entries(made):
                    raise ArchiveRefused(
                        f"{month.name}: {self.directory / made.file} has other entries than this"
                        " journal; name another directory"
                    )
                archive_file.secure(self.directory, known)
                return known
            if archive_file.is_another(self.directory, made):
                raise ArchiveRefused(
                    f"{month.name}: {self.directory / made.file} is there without a manifest, and"
                    " is not of these entries; move it out of the way"
                )
            writer.name_file()
        failpoints.hit("archive_file")
        archive_file.write_manifest(self.directory, made)
        failpoints.hit("archive_manifest")
        return archive_file.read_manifest(self.directory / archive_file.manifest_name(month.first))

    async def _write_shard(self, writer: MonthWriter, month: Month, row: Mapping[str, Any]) -> None:
        """Write a shard's entries, and gather what they lead to, in a snapshot of its own."""
        number, before, until = row["shard"], row["seq"], row["last"]
        first, after = month.span
        report = Report()
        books = Audit(report, number)
        async with self.conn.transaction(isolation="repeatable_read"):
            await self.conn.execute(sql("reconcile_patience"))
            await books.read_quarantined(self.conn)
            last, chain = await books.begin(self.conn)
            cursor = await self.conn.cursor(sql("archive_entries"), number, before, until)
            while rows := await cursor.fetch(_PAGE, timeout=STATEMENT_S):
                last, chain = books.take(rows, last, chain)
                writer.add(rows)
                others = (r for r in rows if not first <= r["at"] < after)
                month.carried += ((number, r["seq"], r["at"]) for r in others)
                if len(month.carried) > _CARRIED_MAX:
                    raise ArchiveRefused(
                        f"{month.name}: more than {_CARRIED_MAX:,} entries of other months stand"
                        f" before entry {until} of shard {number}, which says that it is of this"
                        " one: the clocks were wrong for a long time"
                    )
            _refuse_what_differs(month, number, report)
            if last != until:
                raise ArchiveRefused(f"{month.name}: shard {number} has changed meanwhile")
            await self._gather(books.openings(), number, month)
        writer.end_shard(Part(number, until - before, before + 1, until, row["chain"], chain))

    async def _gather(self, openings: Iterable[tuple[Any, ...]], number: int, month: Month) -> None:
        records = ((number, month.first, *opening) for opening in openings)
        await self.conn.copy_records_to_table(
            "opening_gathered",
            schema_name="pg_temp",
            records=records,
            columns=_OPENING_COLUMNS,
            timeout=STATEMENT_S,
        )

    # The transaction

    async def _take_away(self, month: Month, manifest: Manifest) -> None:
        """Openings in, partition out, in one transaction, as soon as nobody reads the journal."""
        for attempt in range(TRIES):
            await asyncio.sleep(PAUSE_S if attempt else 0)
            try:
                await self._attempt(month, manifest)
            except asyncpg.LockNotAvailableError as error:
                kept = error
            else:
                return
        raise ArchiveRefused(
            f"{month.name}: the journal was read or written for {TRIES} s without a moment in"
            f" between ({kept}); its file is written, and the next call goes on"
        )

    async def _attempt(self, month: Month, manifest: Manifest) -> None:
        conn = self.conn
        transaction = conn.transaction()
        await transaction.start()
        try:
            await conn.execute(sql("archive_timeouts"))
            await conn.execute(sql("archive_still"), month.first)
            await self._compare(month, manifest)
            if month.carried:
                columns = zip(*month.carried, strict=True)
                await conn.execute(sql("archive_carried"), *columns, timeout=STATEMENT_S)
            await self._open(month, manifest)
            failpoints.hit("archive_opened")
            # Last: from here on everybody else waits.
            await conn.execute(sql("archive_detach"), month.first, self._keep)
            failpoints.hit("archive_detached")
        except BaseException:
            if not conn.is_closed():
                await transaction.rollback()
            raise
        await failpoints.hit_during("archive_commit_sent", transaction.commit())

    async def _compare(self, month: Month, manifest: Manifest) -> None:
        """Is the month still what its file has? Raises ArchiveRefused."""
        rows = await self.conn.fetch(sql("archive_counts"), *month.span, timeout=STATEMENT_S)
        counts = {part.shard: part.entries for part in manifest.shards}
        for number, _, _ in month.carried:
            counts[number] -= 1
        ends = {part.shard: part.last_seq for part in manifest.shards}
        now = {row["shard"]: (row["entries"], row["last"]) for row in rows}
        if now != {number: (counts[number], ends[number]) for number in counts}:
            raise ArchiveRefused(f"{month.name}: the journal has other entries now than its file")

    async def _open(self, month: Month, manifest: Manifest) -> None:
        await self.conn.execute(
            sql("archive_insert"),
            month.first,
            str((self.directory / manifest.file).resolve()),
            manifest.entries,
            manifest.bytes,
            manifest.sha256,
            self._keep,
            self._actor,
        )
        parts = manifest.shards
        await self.conn.execute(
            sql("opening_shard_insert"),
            month.first,
            [part.shard for part in parts],
            [part.last_seq for part in parts],
            [part.chain for part in parts],
        )
        await self.conn.execute(sql("opening_insert"), timeout=STATEMENT_S)
        await audit.record(
            self.conn,
            actor=self._actor,
            action="journal.archive",
            subject=f"month:{month.name}",
            after={
                "file": manifest.file,
                "entries": manifest.entries,
                "sha256": manifest.sha256,
                "kept": self._keep,
            },
        )


def _refuse_what_differs(month: Month, number: int, report: Report) -> None:
    """An archive is no place to lose what a reconcile would find."""
    told = [finding.detail for finding in report.findings] + report.uncompared
    if told:
        raise ArchiveRefused(
            f"{month.name}: the journal of shard {number} does not add up: {told[0]}; see"
            " `holdfast reconcile`"
        )
