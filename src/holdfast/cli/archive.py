"""`holdfast archive`: old months of the journal become files, and are checked."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.incidents import By, operator
from holdfast.cli.output import (
    DONE,
    USAGE,
    Failure,
    confirm,
    plain,
    refused,
    show,
    show_json,
    size,
    table,
)
from holdfast.cli.places import (
    Json,
    Yes,
    database,
    database_configuration,
    redis,
    run,
    store_configuration,
    store_pool,
)

if TYPE_CHECKING:
    from settlement.archive import Archived
    from settlement.archive_check import Listed
    from settlement.archive_file import Manifest
    from settlement.report import Report

archive = typer.Typer()

Directory = Annotated[
    Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Where archives are.")
]


@archive.callback(invoke_without_command=True)
def _archive(
    context: typer.Context,
    *,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", file_okay=False, help="Where the files go."),
    ] = None,
    older_than: Annotated[
        int,
        typer.Option("--older-than", min=0, max=1200, help="Months that a month ended ago."),
    ] = 13,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the detached tables in Postgres.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be archived.")
    ] = False,
    by: By = None,
    as_json: Json = False,
) -> int:
    """Write old months of the journal to files, check these, and take the months out of Postgres.

    One file and one manifest a month. Balances, records and usage stay, `reconcile` goes on from
    what the months led to. Interrupted anywhere, it is simply called again.
    """
    if context.invoked_subcommand is not None:
        return DONE
    if to is None:
        raise Failure("name a directory for the files: --to DIR", USAGE)
    done, refusal = run(_archive_months(to, older_than, operator(by), keep=keep, dry_run=dry_run))
    if as_json:
        show_json({"data": [_document(each) for each in done], "refused": refusal})
    else:
        show(*(_line(each, dry_run) for each in done))
        if not done and refusal is None:
            show("no month is old enough")
    if refusal is not None:
        raise refused(refusal)
    return DONE


async def _archive_months(
    to: Path, months: int, actor: str, *, keep: bool, dry_run: bool
) -> tuple[list[Archived], str | None]:
    """What was archived, and why the next month was not."""
    from holdfast import __version__  # noqa: PLC0415
    from settlement import failpoints  # noqa: PLC0415
    from settlement.archive import archive  # noqa: PLC0415
    from settlement.archive_rules import ArchiveRefused  # noqa: PLC0415

    config = store_configuration()
    failpoints.arm(config.test_failpoint)
    done: list[Archived] = []
    async with redis(config) as shards, store_pool(config) as pool:
        try:
            async for each in archive(
                pool,
                shards,
                to,
                months=months,
                key_window_s=config.key_window_s,
                version=__version__,
                actor=actor,
                keep=keep,
                dry_run=dry_run,
            ):
                done.append(each)
        except ArchiveRefused as error:
            return done, str(error)
    return done, None


def _line(done: Archived, dry_run: bool) -> str:
    where = f"{done.month:%Y-%m}: {done.entries:,} entries"
    if dry_run:
        return f"{where} would go to {plain(done.file)}"
    return f"{where} are in {plain(done.file)} ({size(done.bytes or 0)})"


def _document(found: Archived | Listed) -> dict[str, Any]:
    return {**asdict(found), "month": f"{found.month:%Y-%m}", "file": str(found.file)}


@archive.command("list")
def list_archives(
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="Where archives are now. [where they were written]"),
    ] = None,
    *,
    as_json: Json = False,
) -> int:
    """What is archived, and where."""

    async def work() -> list[Listed]:
        from settlement.archive_check import listing  # noqa: PLC0415
        from settlement.archive_file import Damaged  # noqa: PLC0415

        async with database(database_configuration()) as conn:
            try:
                return await listing(conn, directory)
            except Damaged as error:
                raise refused(str(error)) from None

    found = run(work())
    if as_json:
        show_json({"data": [_document(each) for each in found]})
        return DONE
    columns = ("month", "entries", "size", "state", "file")
    rows = [
        (f"{e.month:%Y-%m}", f"{e.entries:,}", size(e.bytes), _state(e), str(e.file)) for e in found
    ]
    show(table(columns, rows, numbers={"entries", "size"}, folds={"file"}))
    return DONE


def _state(found: Listed) -> str:
    words = ["archived" if found.archived else "written only"]
    if found.kept:
        words.append("table kept")
    if not found.found:
        words.append("file not found")
    return ", ".join(words)


@archive.command("verify")
def verify(
    directory: Directory,
    *,
    offline: Annotated[
        bool, typer.Option("--offline", help="The files alone, without Postgres.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Read archives again: each against its manifest, the chain, and what Postgres has of it.

    Exits with 0 where all is as it was written, with 1 where something differs, with 2 where there
    is a month that was not compared.
    """

    async def work() -> Report:
        from settlement.archive_check import verify  # noqa: PLC0415

        async with AsyncExitStack() as stack:
            conn = None
            if not offline:
                conn = await stack.enter_async_context(database(database_configuration()))
            return await verify(directory, conn)

    report = run(work())
    if as_json:
        differences = [asdict(each) for each in report.findings]
        show_json(
            {
                "findings": differences,
                "uncompared": report.uncompared,
                "entries": report.entries,
                "exit_code": report.exit_code,
            }
        )
        return report.exit_code
    for finding in report.findings:
        about = f"account {finding.account}, " if finding.account else ""
        where = f"shard {finding.shard}, " if finding.shard is not None else ""
        show(plain(f"≠ {where}{about}{finding.check}: {finding.detail}"))
    for what in report.uncompared:
        show(plain(f"? not compared: {what}"))
    show(f"{report.entries:,} entries read, {report.differences:,} differences")
    return report.exit_code


@archive.command("restore")
def restore(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Or its manifest."),
    ],
    *,
    yes: Yes = False,
    by: By = None,
    as_json: Json = False,
) -> int:
    """Put the month that was archived last back into the journal, as it was. Its files stay."""
    if not yes:
        confirm(f"Put the entries of {plain(file)} back into Postgres?")

    async def work() -> Manifest:
        from settlement.archive_restore import NotRestored, restore  # noqa: PLC0415

        async with store_pool(database_configuration()) as pool:
            try:
                return await restore(pool, file, actor=operator(by))
            except NotRestored as error:
                raise refused(str(error)) from None

    done = run(work())
    if as_json:
        show_json({"month": f"{done.month:%Y-%m}", "entries": done.entries})
    else:
        show(f"{done.month:%Y-%m}: {done.entries:,} entries are in the journal again")
    return DONE
