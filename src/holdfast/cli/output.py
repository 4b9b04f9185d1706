"""What commands print and how they end: tables for people, JSON for programs, codes for shells.

Results go to stdout, everything else to stderr. What is not ours (names, words of a caller) is
printed without the control characters that would command a terminal.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from holdfast.client import Page

DONE: Final = 0
REFUSED: Final = 1
UNDECIDED: Final = 2
USAGE: Final = 64
BUG: Final = 70
CONFIGURATION: Final = 78

EXIT_CODES: Final = (
    "Exit codes: 0 done, or both sides agree · 1 refused, or they differ · 2 could not be decided"
    " (a store or the service is away, an outcome is unknown) · 64 wrong usage · 70 a bug · 78"
    " wrong configuration."
)

MICROCREDITS: Final = 1_000_000
MAX_AMOUNT: Final = 9 * 10**15
# Longer than any amount there is; what is cut off here is refused without a look at it.
_LONGEST_AMOUNT = 32
_CREDITS = re.compile(r"(\d+)(?:\.(\d+))?cr")

# A table that goes into a file or a pipe is not folded to a screen's width.
_PIPE_COLUMNS = 240


class Failure(Exception):
    """A command ends here: one line on stderr, and an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def refused(message: str) -> Failure:
    """The answer is no."""
    return Failure(message, REFUSED)


def undecided(message: str) -> Failure:
    """A store or the service did not say."""
    return Failure(message, UNDECIDED)


def misconfigured(message: str) -> Failure:
    """Somebody has to change a setting first; the message says which."""
    return Failure(message, CONFIGURATION)


# ── amounts and times ────────────────────────────────────────────────────────────────────────────


def parse_amount(text: str) -> int:
    """Microcredits of `1500000` or `1.5cr`. Raises ValueError, saying what is wrong."""
    if len(text) > _LONGEST_AMOUNT:
        raise ValueError("this is longer than any amount")
    if text.isascii() and text.isdigit():
        amount = int(text)
    elif match := _CREDITS.fullmatch(text):
        exact = Decimal(text.removesuffix("cr")) * MICROCREDITS
        if exact != int(exact):
            raise ValueError(f"{text} is not a whole number of microcredits: six decimals at most")
        amount = int(exact)
        del match
    else:
        raise ValueError(f"{text!r} is no amount: microcredits like 1500000, or credits like 1.5cr")
    if amount > MAX_AMOUNT:
        raise ValueError(f"{text} is above the largest amount, {MAX_AMOUNT} microcredits")
    return amount


def credits(amount: int | None) -> str:
    """Microcredits as credits, with six decimals and thousands separators; nothing for None."""
    if amount is None:
        return ""
    whole, rest = divmod(abs(amount), MICROCREDITS)
    return f"{'-' if amount < 0 else ''}{whole:,}.{rest:06d}"


def moment(at: datetime | None) -> str:
    """A time in UTC, to the second; nothing for None."""
    return "" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """A time span in the unit that suits it."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if abs(seconds) >= 0.1 else f"{seconds * 1000:.0f} ms"


def size(count: float) -> str:
    """A number of bytes in the unit that suits it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"


def plain(value: Any) -> str:
    """A text as it may go to a terminal: without control characters; nothing for None."""
    if value is None:
        return ""
    return "".join(sign if sign.isprintable() else "�" for sign in str(value))


# ── printing ─────────────────────────────────────────────────────────────────────────────────────


def console(*, stderr: bool = False) -> Console:
    """Where tables go. Colours only on a terminal; no markup, for texts are not ours."""
    from rich.console import Console  # noqa: PLC0415

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PIPE_COLUMNS
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def show(*parts: RenderableType) -> None:
    """Print for people."""
    made = console()
    if made.is_terminal:
        made.print(*parts, sep="\n")
        return
    with made.capture() as captured:
        made.print(*parts, sep="\n")
    # Cells are padded; in a file or a pipe that is noise.
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def show_json(document: Any) -> None:
    """Print one JSON document. Times become RFC 3339, bytes text."""
    sys.stdout.write(json.dumps(document, indent=2, default=_plain_json) + "\n")


def show_json_line(document: Any) -> None:
    """Print one JSON document of many, on a line of its own, at once."""
    sys.stdout.write(json.dumps(document, default=_plain_json) + "\n")
    sys.stdout.flush()


def _plain_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not for JSON")


def note(text: str) -> None:
    """Say something that is not the result."""
    sys.stderr.write(f"{text}\n")


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    numbers: Collection[str] = (),
    folds: Collection[str] = (),
) -> Table:
    """A table. Columns named in `numbers` are set to the right; those in `folds` give way.

    Nothing is cut, so whatever may be long must be in `folds`.
    """
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        made.add_column(
            name,
            justify="right" if name in numbers else "left",
            no_wrap=name not in folds,
            overflow="fold",
        )
    for row in rows:
        made.add_row(*(cell if _renders(cell) else plain(cell) for cell in row))
    return made


def facts(pairs: Mapping[str, Any]) -> Table:
    """Names and values, one pair a line; pairs without a value are left out."""
    from rich.table import Table  # noqa: PLC0415

    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    for name, value in pairs.items():
        if value not in (None, ""):
            made.add_row(name, value if _renders(value) else plain(value))
    return made


def _renders(value: Any) -> bool:
    return hasattr(value, "__rich_console__")


def more(cursor: str | int | None) -> None:
    """Say that a list goes on, and how to see the rest."""
    if cursor is not None:
        note(f"there is more: --after {cursor}")


def show_page(
    page: Page[Any],
    columns: Mapping[str, Any],
    *,
    numbers: Collection[str],
    folds: Collection[str],
    as_json: bool,
) -> int:
    """A list; `columns` are names and what they show of a row."""
    if as_json:
        show_json({"data": [each.raw for each in page.data], "next": page.next})
        return DONE
    rows = [[read(each) for read in columns.values()] for each in page.data]
    show(table(list(columns), rows, numbers=numbers, folds=folds))
    more(page.next)
    return DONE


def confirm(question: str) -> None:
    """Ask on stderr, for stdout is for results. Raises Failure for anything but a yes."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise refused("not done")
