"""The fault suite, as `make faults` calls it: adds runs to the record, and renders the report."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.faults import report
from tests.faults.campaign import RECORD, Campaign, Plan
from tests.faults.catalogue import Row, everything


def main(
    words: Sequence[str] | None = None,
    rows: tuple[Row, ...] | None = None,
    page: Path = report.PAGE,
    record: Path = RECORD,
) -> int:
    """The program, on all rows unless some are given. Answers its exit code: 0 all runs were good,
    1 one was not, 130 interrupted. Raises SystemExit(2) for wrong words."""
    parser = _parser()
    arguments = parser.parse_args(words)
    rows = everything() if rows is None else rows
    try:
        chosen, only = _chosen(arguments.row, rows)
    except LookupError as error:
        parser.error(str(error.args[0]))

    def render() -> None:
        report.write(rows, page, record)

    render()
    campaign = Campaign(chosen, Plan(arguments.count, arguments.seed), record, only, render)
    done = 0
    try:
        if not arguments.report:
            done = asyncio.run(_interruptible(campaign))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    sys.stdout.write(f"{done} runs, {len(campaign.failed)} failed; {page} is written\n")
    return 1 if campaign.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--row", default="", metavar="ROW[/VARIANT]", help="one row, or one variant; all if empty"
    )
    parser.add_argument(
        "--count",
        type=_positive,
        help="runs that this call adds to a variant at most; until its count is reached if empty",
    )
    parser.add_argument(
        "--seed",
        type=_positive,
        help="the first seed, run even if it ran before (one run without --count);"
        " the next unused one if empty",
    )
    parser.add_argument("--report", action="store_true", help="only render the report anew")
    return parser


def _chosen(words: str, rows: tuple[Row, ...]) -> tuple[tuple[Row, ...], str | None]:
    """The rows, and the one variant if any, that ROW[/VARIANT] names."""
    if not words:
        return rows, None
    name, given, variant = words.partition("/")
    chosen = tuple(row for row in rows if row.name == name)
    if not chosen:
        raise LookupError(f"no row {name!r}; there are {', '.join(row.name for row in rows)}")
    if given and variant not in chosen[0].variants:
        known = ", ".join(chosen[0].variants)
        raise LookupError(f"{name} has no variant {variant!r}; it has {known}")
    return chosen, variant if given else None


async def _interruptible(campaign: Campaign) -> int:
    """A campaign that ends its programs and its run before it gives way to SIGTERM."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await campaign.run()


def _positive(text: str) -> int | None:
    """A number from 1 up; nothing where a variable of make is empty."""
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
