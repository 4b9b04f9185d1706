"""How a replay is shown: a progress bar, then a table or one JSON object."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, TextIO

import uvloop
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from holdfast.replay import ReplayError, ReplayOptions, ReplayReport, TraceError, run_replay

__all__ = ["replay_and_show", "report_as_json", "report_as_text"]

# Differences shown on a screen; the JSON has them all.
_SHOWN_DIFFERENCES = 50
_MICROCREDITS = 1_000_000


def replay_and_show(options: ReplayOptions, *, as_json: bool, out: TextIO, notes: TextIO) -> int:
    """Replay, with progress on `notes` and the result on `out`; returns the exit code.

    0: the service's books agree with what it acknowledged; 1: they differ; 2: they could not be
    compared, or there was no trace or no service.
    """
    console = Console(file=notes)
    columns = (
        TextColumn("replaying"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("calls"),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task("replaying", total=None)

            def on_progress(done: int, total: int) -> None:
                # Drawing is the bar's own affair, ten times a second; once in 64 is often enough.
                if done % 64 == 0 or done == total:
                    progress.update(bar, completed=done, total=total)

            report = uvloop.run(run_replay(options, on_progress=on_progress))
    except (TraceError, ReplayError) as error:
        console.print(Text(str(error), style="red"), soft_wrap=True)
        return 2
    if as_json:
        out.write(json.dumps(report_as_json(report), indent=2) + "\n")
    else:
        # A difference stays one line, however long, to be searched for.
        Console(file=out).print(report_as_text(report), soft_wrap=True)
    return report.exit_code


def report_as_json(report: ReplayReport) -> dict[str, Any]:
    """The report as one object: its fields, and `agrees`."""
    return dataclasses.asdict(report) | {"agrees": report.exit_code == 0}


def report_as_text(report: ReplayReport) -> RenderableType:
    """The report for people."""
    parts: list[RenderableType] = [_calls(report), _latencies(report)]
    if report.errors:
        parts.append(_errors(report))
    parts.append(_verdict(report))
    return Group(*parts)


def _credits(microcredits: int) -> str:
    return f"{microcredits / _MICROCREDITS:,.2f}"


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.1%})" if whole else f"{part:,}"


def _calls(report: ReplayReport) -> Table:
    table = Table(title=f"replay of {report.source}", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    rows = [
        ("calls", f"{report.calls:,} on {report.accounts:,} accounts"),
        ("committed", _share(report.committed, report.calls)),
        ("released", _share(report.released, report.calls)),
        ("denied", _share(report.denied, report.calls)),
        ("over estimate", _share(report.over_estimate, report.committed)),
        ("credits reserved", _credits(report.credits_reserved)),
        ("credits committed", _credits(report.credits_committed)),
        ("credits released", _credits(report.credits_released)),
        ("time", f"{report.elapsed_s:,.1f} s"),
        ("rate", f"{report.requests_per_s:,.0f} requests/s"),
    ]
    # What is rare is shown where it happened.
    rare = [
        ("late", report.late),
        ("more than the account had", report.shortfalls),
        ("refused", report.refused),
        ("left open", report.unfinished),
        ("outcome unknown", report.unknown),
        ("not begun", report.abandoned),
    ]
    rows[5:5] = [(name, f"{count:,}") for name, count in rare if count]
    if report.credits_uncollected:
        rows.append(("credits not collected", _credits(report.credits_uncollected)))
    if report.behind_s >= 1:
        rows.append(("behind the trace", f"{report.behind_s:,.1f} s at most"))
    for row in rows:
        table.add_row(*row)
    return table


def _latencies(report: ReplayReport) -> Table:
    table = Table("operation", title_justify="left")
    for name in ("answers", "p50 ms", "p99 ms", "p99.9 ms", "max ms"):
        table.add_column(name, justify="right")
    for operation, summary in report.latency.items():
        times = (summary.p50_ms, summary.p99_ms, summary.p999_ms, summary.max_ms)
        table.add_row(operation, f"{summary.count:,}", *(f"{each:,.2f}" for each in times))
    return table


def _errors(report: ReplayReport) -> Table:
    table = Table("error")
    table.add_column("answers", justify="right")
    for code, count in report.errors.items():
        table.add_row(code, f"{count:,}")
    return table


def _verdict(report: ReplayReport) -> Text:
    compared = f"{report.entries_compared:,} entries of {report.accounts:,} accounts"
    if report.not_compared is not None and not report.differences:
        return Text(f"The books could not be compared: {report.not_compared}", "red")
    if not report.differences:
        return Text(f"The service's books agree with every answer it gave ({compared}).", "green")
    accounts = len({each.account for each in report.differences})
    lines = [
        f"The service's books differ from the answers it gave: {len(report.differences):,} "
        f"differences on {accounts:,} accounts ({compared} compared)."
    ]
    lines += [f"  {each}" for each in report.differences[:_SHOWN_DIFFERENCES]]
    if len(report.differences) > _SHOWN_DIFFERENCES:
        lines.append(f"  and {len(report.differences) - _SHOWN_DIFFERENCES:,} more")
    if report.not_compared is not None:
        lines.append(f"Not every account could be compared: {report.not_compared}")
    return Text("\n".join(lines), "red")
