"""Operations on the stores themselves: compare, look closely, rebuild, check every setting."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from holdfast.cli.arguments import AccountId
from holdfast.cli.incidents import operator
from holdfast.cli.output import (
    DONE,
    REFUSED,
    USAGE,
    Failure,
    confirm,
    note,
    plain,
    refused,
    show,
    show_json,
    undecided,
)
from holdfast.cli.places import (
    Json,
    Yes,
    database,
    redis,
    run,
    store_configuration,
    store_pool,
    worker_state,
)

if TYPE_CHECKING:
    from holdfast.checks import Check
    from holdfast.inspection import Inspection
    from settlement.report import Report

_STYLES: Final = {"ok": "green", "warn": "yellow", "fail": "bold red", "unknown": "magenta"}


# ── reconcile ────────────────────────────────────────────────────────────────────────────────────


def reconcile(
    account: Annotated[
        str | None, typer.Argument(metavar="ACCOUNT", help="Only this one. [all of them]")
    ] = None,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Balances, settings, open holds; not the whole journal.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Compare journal, tables and Redis, on the live system. Looks, and never repairs.

    Exits with 0 where they agree, with 1 where something differs, with 2 where something could not
    be compared.
    """

    async def work() -> Report:
        from settlement.reconcile import reconcile  # noqa: PLC0415

        config = store_configuration()
        async with redis(config) as shards, store_pool(config) as pool:
            window_s = config.key_window_s
            return await reconcile(pool, shards, window_s=window_s, account=account, full=not quick)

    report = run(work())
    if as_json:
        show_json({**asdict(report), "exit_code": report.exit_code})
    else:
        _show_report(report)
    return report.exit_code


def _show_report(report: Report) -> None:
    from rich.text import Text  # noqa: PLC0415

    for finding in report.findings:
        shard = "" if finding.shard is None else f"shard {finding.shard}"
        where = f"account {finding.account}" if finding.account else shard
        show(Text(f"≠ {plain(where)}, {finding.check}: {plain(finding.detail)}", "red"))
    for what in report.uncompared:
        show(Text(f"? not compared: {plain(what)}", "yellow"))
    counts = {
        "shard": len(report.marks),
        "account": report.accounts,
        "record": report.records,
        "journal entrie": report.entries,
    }
    compared = ", ".join(f"{count:,} {word}s" for word, count in counts.items() if count)
    compared = f"{compared or 'nothing'}, {report.unsettled:,} entries not settled yet"
    if report.differences:
        more = report.differences - len(report.findings)
        rest = f" ({more:,} are not shown)" if more else ""
        show(Text(f"{report.differences:,} differences{rest}. Compared: {compared}.", "bold red"))
        accounts = list(dict.fromkeys(f.account for f in report.findings if f.account))
        if accounts:
            note(f"look closer: holdfast inspect {accounts[0]}")
    elif report.uncompared:
        show(Text(f"What could be compared agrees: {compared}.", "yellow"))
    else:
        show(Text(f"All agrees: {compared}.", "green"))


# ── inspect ──────────────────────────────────────────────────────────────────────────────────────


def inspect(account: AccountId, *, as_json: Json = False) -> int:
    """All that Redis and Postgres know of an account, next to each other.

    With its keys, its shard, its last entries, and what a difference means. Exits with 1 where the
    stores disagree; what is only not settled yet is no disagreement.
    """

    async def work() -> Inspection:
        from holdfast.inspection import inspect_account  # noqa: PLC0415

        config = store_configuration()
        async with redis(config) as shards, database(config) as conn:
            return await inspect_account(shards, conn, config, account)

    found = run(work())
    if as_json:
        show_json(asdict(found))
    else:
        from holdfast.cli.sides import inspection_as_text  # noqa: PLC0415

        show(*inspection_as_text(found))
    return REFUSED if found.differs else DONE


# ── rebuild ──────────────────────────────────────────────────────────────────────────────────────


def rebuild(
    shard: Annotated[int | None, typer.Argument(metavar="SHARD", min=0, max=999)] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every shard.")] = False,
    yes: Yes = False,
    by: Annotated[
        str | None, typer.Option("--by", help="Who asks, for the record. [your login name]")
    ] = None,
    as_json: Json = False,
) -> int:
    """Throw a shard of Redis away, and start it again from the journal.

    Everything that continues the journal is settled first. What does not is kept in quarantine, and
    an incident says what was lost. The shard is closed meanwhile; a stopped one opens.
    """
    if (shard is None) is not everything:
        raise Failure("name one shard, or --all", USAGE)
    config = store_configuration()
    if shard is not None and shard >= config.shards:
        raise Failure(f"there is no shard {shard}: they are 0 to {config.shards - 1}", USAGE)
    if not yes:
        what = f"shard {shard}" if shard is not None else f"all {config.shards} shards"
        question = (
            f"Settle what continues the journal, then delete {what} in Redis and start again from"
            " Postgres? Callers get 503 meanwhile."
        )
        confirm(question)
    numbers = None if shard is None else [shard]
    written = run(_rebuild(numbers, operator(by)))
    if as_json:
        show_json({"shards": sorted(each["shard"] for each in written), "incidents": written})
    else:
        show(*(f"incident {each['id']}: {plain(each['summary'])}" for each in written))
    return DONE


async def _rebuild(numbers: list[int] | None, asked_by: str) -> list[dict[str, Any]]:
    """Rebuild, and answer the incidents that say what it did."""
    from settlement.incidents import listing  # noqa: PLC0415
    from settlement.readiness import Refused  # noqa: PLC0415
    from settlement.vetting import FAILURES, Vetting  # noqa: PLC0415

    async with worker_state(store_configuration()) as state:
        async with state.pool.acquire() as conn:
            before = max((each["id"] for each in await listing(conn, limit=1)), default=0)
        try:
            await Vetting(state).force_rebuild(numbers, asked_by)
        except Refused as error:
            raise refused(f"this Redis is not fit for it: {error}") from None
        except FAILURES as error:
            raise undecided(
                f"the rebuild ended early ({type(error).__name__}: {error}); the next vetting of a"
                " worker takes it up: `holdfast doctor` shows the shards"
            ) from error
        async with state.pool.acquire() as conn:
            written = await listing(conn, limit=1000)
        return [each for each in written if each["id"] > before and each["kind"] == "rebuild"]


# ── doctor ───────────────────────────────────────────────────────────────────────────────────────


def doctor(*, as_json: Json = False) -> int:
    """Check every setting that money depends on, and say how to mend each.

    Exits with 1 where something fails, with 2 where something could not be looked at. A warning is
    a risk that you may have chosen.
    """
    from holdfast.doctor import examine, exit_code  # noqa: PLC0415

    checks = run(examine(store_configuration()))
    if as_json:
        show_json({"checks": [asdict(check) for check in checks], "exit_code": exit_code(checks)})
    else:
        _show_checks(checks)
    return exit_code(checks)


def _show_checks(checks: list[Check]) -> None:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    for about in dict.fromkeys(check.about for check in checks):
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True, min_width=7)
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for check in checks:
            if check.about != about:
                continue
            found = Text(plain(check.found))
            if check.mend:
                found.append(f"\n→ {plain(check.mend)}", style="bold")
            grid.add_row(Text(check.level, _STYLES[check.level]), check.name, found)
        show(Text(about, "bold"), grid, "")
    counts = [f"{sum(c.level == level for c in checks)} {level}" for level in _STYLES]
    show(", ".join(counts))
