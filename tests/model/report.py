"""Writes docs/model.md: what was searched, and what each rule of the protocol is for.

python -m tests.model.report              search, and write the page
python -m tests.model.report --show 15    print the counterexamples of a rule, step by step
python -m tests.model.report --far        search further than the tests do; takes minutes
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.model.catalogue import GROUNDS, Hole, ground_search, hole_search
from tests.model.holes import HOLES

Row = tuple[str, ...]

PAGE = Path(__file__).parents[2] / "docs" / "model.md"

_HEAD = """\
# The protocol, searched

*Written by `python -m tests.model.report`; a test compares it with what it finds.*

The rules that keep Redis and Postgres one were written as small models in Python (`tests/model/`),
and every state of those models was looked at, breadth first: every order in which workers, callers,
failovers, restarts and the two stores can take their steps, with every worker stopped for any time
between any two of its own. This page says what was found to hold, what goes wrong without each
rule, and how far all that reaches. Rules have the numbers of the protocol; a `+` marks what the
protocol did not say before the search asked for it.

A model is not the code. It shows that the rules suffice; that scripts and worker obey them is for
the other tests to show.
"""

_HOLDS = """
## What holds

In all these states:

- no boot of Redis answers that was not vetted, but for a failover there and back inside a lease;
- two boots never both take on new spending; commits end so long after the last proof of life;
- the journal has no gap, no fork and no entry twice;
- no shard is open without an entry that was settled, or with keys that were deleted;
- a balance is the fold of its entries, one key has one effect, a charge is refunded once;
- nobody is told `settled` of an entry that the journal lacks, and what he was told stays true as
  far as one of the stores kept it; what a healthy Redis holds is not thrown away.

Where *hope* says yes, every single state has a way back to a shard that serves; where Postgres
fell back too far, to one that waits for an operator.
"""

_RULES = """
## What each rule is for

With that rule taken out and all others in force: the length of a shortest way to something that
must not be, its story, and how many states were looked at until it was found.
"""

_HARMLESS = """
## What makes no difference

Taken out, these change nothing in the whole space that was searched.
"""

_LIMITS = """
Nor is there a vetter's lock in any model: any number of vetters may work at the same time. The
advisory lock of rule 14 keeps generations few; safety does not rest on it.

## How far it reaches

- One shard, two instances of Redis, one Postgres with at most one replica, two to four entries, one
  or two loops of each kind, each fault as often as the table says. What needs more of them is not
  seen. `python -m tests.model.report --far` goes further. Time and the number of attempts are not
  bounded; nor are generations, but where Postgres falls back.
- A tick is a whole lease. That a lease has ended when the pause has rests on the half second
  between them, and on clocks that agree so far; a model has one time for all.
- Redis's clock stays where it jumped to until a worker has looked at it, which takes half a second.
  What a shorter jump does is seen by a witness that may miss it
  ([decision 8](decisions/0008-a-clock-that-was-ahead.md)).
- An account is what its entries made of it. Amounts, holds and limits are not in these models.
- A failover of Redis and a fall of Postgres are never in the same search. Of both at once it is
  known that a Postgres which forgets a declaration takes the old primary for vetted, if that lives
  on and a worker still reaches it.
- Not modelled: bounds on what is unsettled (7), upgrades (4), what an operator does with an entry
  in quarantine (11).
"""


def rendered(
    ground_row: Callable[[str], Row] | None = None, hole_row: Callable[[Hole], Row] | None = None
) -> str:
    """The page. Searches everything that is near, once a run, unless rows are told otherwise."""
    ground_row, hole_row = ground_row or row_of_ground, hole_row or row_of_hole
    near = [name for name, ground in GROUNDS.items() if not ground.far]
    lines = [_HEAD, _HOLDS.rstrip(), ""]
    lines += _table(
        ("model", "what happens in it", "states", "steps", "farthest", "hope"),
        map(ground_row, near),
    )
    lines += [_RULES.rstrip(), ""]
    lines += _table(
        ("rule", "taken out", "steps", "what happens", "states"),
        (hole_row(hole) for hole in HOLES if hole.fault),
    )
    lines += [_HARMLESS.rstrip(), ""]
    lines += _table(
        ("rule", "taken out", "why nothing happens", "states"),
        (hole_row(hole) for hole in HOLES if not hole.fault),
    )
    return "\n".join(lines) + "\n" + _LIMITS


def row_of_ground(name: str) -> Row:
    """What the page says of a ground, which is searched."""
    ground, found = GROUNDS[name], ground_search(name)
    numbers = f"{found.states:,}", f"{found.steps:,}", str(found.depth)
    return ground.family, ground.about, *numbers, "yes" if ground.hopes else ""


def row_of_hole(hole: Hole) -> Row:
    """What the page says of a rule, for which the search is made without it."""
    found = hole_search(hole)
    states = f"{found.states:,}"
    if not hole.fault:
        return hole.rule, hole.taken_out, hole.story, states
    length = "none" if found.counterexample is None else str(len(found.counterexample))
    return hole.rule, hole.taken_out, length, hole.story, states


def line(row: Row) -> str:
    """A row as the page has it."""
    return f"| {' | '.join(row)} |"


def _table(heads: Row, rows: Iterable[Row]) -> list[str]:
    return [line(row) for row in (heads, ("---",) * len(heads), *rows)]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _show(rule: str) -> None:
    for hole in HOLES:
        if rule in hole.rule.replace("+", "").split(", "):
            found = hole_search(hole)
            _say(f"{hole.rule}. Without this: {hole.taken_out} ({hole.ground})")
            _say(str(found.counterexample or f"  nothing, in {found.states:,} states"))


def _search_far() -> None:
    for name, ground in GROUNDS.items():
        if ground.far:
            found = ground_search(name)
            _say(
                f"{name}: {found.states:,} states, {found.steps:,} steps,"
                f" {found.seconds:.0f} s: {ground.about}"
            )
            _say(str(found.counterexample or "  holds"))


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m tests.model.report", description=__doc__)
    parser.add_argument("--show", metavar="RULE", help="print a rule's counterexamples")
    parser.add_argument("--far", action="store_true", help="search further than the tests do")
    arguments = parser.parse_args()
    if arguments.show:
        _show(arguments.show)
    elif arguments.far:
        _search_far()
    else:
        PAGE.write_text(rendered(), encoding="utf-8")
        _say(f"{PAGE} is written")


if __name__ == "__main__":
    main()
