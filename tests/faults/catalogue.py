"""What the fault suite does: one row for each fault, in the order of the report.

A row lives in `tests/faults/rows/<row>.py`, dashes of its name as underscores, and exports it as
`ROW`. A run of a row starts a whole service of real processes, does the fault to it under load, and
returns figures; it raises AssertionError where what the row expects did not come true. Whatever
else it raises is a failure too.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import rows as _rows

NAMES = (
    "kill-redis-always",
    "kill-redis-everysec",
    "aof-cut",
    "older-aof",
    "worker-killed",
    "worker-stopped",
    "postgres",
    "promotion",
    "failback",
    "vetter-stopped",
    "proxy",
    "flushall",
    "script-flush",
    "oom",
    "clock",
    "soak",
)
"""Every row, in the order of the report."""

ONLY = ("",)
"""The variants of a row that has none."""

Figures = dict[str, int | float | str]
"""What a run found out. Numbers are reported as min, median and max over all runs of a variant;
names carry their units (`closed_ms`)."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one row."""

    row: str
    variant: str
    """One of the row's variants; empty where it has none."""
    seed: int
    """At least 1. Whatever a run chooses, it chooses by `rng`, so that a seed repeats the choice;
    how the processes take turns is the machine's."""
    directory: Path
    """Empty, short (a socket of Postgres fits in), removed after a good run, kept after a bad one.
    A history belongs here, so that a failed run keeps it."""
    quick: bool = False
    """Whether `make test` runs it: the same fault under a smaller load, within about 6 s."""
    times: int = 1
    """How often it does its fault."""
    rng: random.Random = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # By the names too, or the variants of a row would make the same choices.
        generator = random.Random(f"{self.row}/{self.variant}/{self.seed}")
        object.__setattr__(self, "rng", generator)

    def sized(self, full: int, quick: int) -> int:
        """`full`, or `quick` where the run is one of `make test`."""
        return quick if self.quick else full

    @property
    def history(self) -> Path:
        """Where a run dumps its history of operations, for whoever looks into a failure."""
        return self.directory / "history.jsonl"


@dataclass(frozen=True, slots=True)
class Row:
    """A fault, how often it is done, and what is expected of the service."""

    name: str
    title: str
    """What is done to the service, as the report says it: half a sentence."""
    expected: str
    """What must come true in every run, as the report says it."""
    run: Callable[[Run], Awaitable[Figures]]
    count: int
    """How often a whole campaign does the fault, with each variant."""
    quick: int = 1
    """Runs of each variant in `make test`."""
    variants: tuple[str, ...] = ONLY
    quick_variants: tuple[str, ...] | None = None
    """Those of them that `make test` runs, where they are much alike; None: all."""
    limit_s: float = 300.0
    """A run that has not ended by then failed; most take 5 to 30 s, the longest say more."""
    times: int = 1
    """How often one run does the fault, one after the other; in `make test` once."""
    asked: str = ""
    """What `count` runs are to amount to, where that is what counts: "10,000 operations"."""

    @property
    def tested(self) -> tuple[str, ...]:
        """The variants that `make test` runs."""
        return self.variants if self.quick_variants is None else self.quick_variants

    @property
    def wanted(self) -> str:
        """How often each variant is asked for, as the report says it."""
        return f"{self.count:,} ({self.asked})" if self.asked else f"{self.count:,}"


def named(name: str) -> Row:
    """A row, of which only its own module is imported. Raises LookupError for an unknown name,
    ModuleNotFoundError where nobody has written it yet."""
    if name not in NAMES:
        raise LookupError(f"no row {name!r}; there are {', '.join(NAMES)}")
    module = importlib.import_module(f"{_rows.__name__}.{name.replace('-', '_')}")
    row = module.ROW
    if not isinstance(row, Row) or row.name != name:
        raise TypeError(f"{module.__name__}.ROW is not the row {name!r}")
    return row


def modules() -> set[str]:
    """The names of rows that have a module, known or not."""
    return {found.name.replace("_", "-") for found in pkgutil.iter_modules(_rows.__path__)}


def everything() -> tuple[Row, ...]:
    """Every row that is written, in the order of the report."""
    there = modules()
    return tuple(named(name) for name in NAMES if name in there)
