"""Tells when balances cross their thresholds: low, critical, empty.

Per account, its `balance_level`; an account without `low_balance` has none. In order, with what is
available when it is entered, and when the account comes back from it:

    level       entered below       left upwards at                  event
    ok          -                   -                                -
    low         low_balance         low_balance + low_balance/10     balance.low
    critical    low_balance/4       low_balance/4 + low_balance/10   balance.critical
    empty       1 (nothing left)    1 + low_balance/10               balance.empty

Divisions are of integers, rounded down. Coming back tells nothing; it arms the thresholds above
which the balance is then. A fall through several thresholds tells of each, so that whoever listens
to one kind alone hears of it. A batch counts by its end: what fell and rose again inside it is not
told. A level gets worse only where the balance fell, so that an account which was just opened, or a
threshold that was set above a balance, tells nothing until credits are taken.

The level moves in the transaction that settles the entries, under the fence of their marks, and
the event is written there: one for a crossing, whichever worker crashes wherever. A batch without
a crossing costs no statement. The SQL function `balance_level_of` decides; this only tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from settlement.events import Event, emit_all
from settlement.queries import Connection, sql

LEVELS: Final = ("ok", "low", "critical", "empty")


async def cross(conn: Connection, accounts: Sequence[str]) -> None:
    """Move these accounts to the levels that their balances have now, and tell of those below.

    In the transaction that moved the balances. Raises what asyncpg raises.
    """
    rows = await conn.fetch(sql("account_levels"), accounts)
    await emit_all(conn, [event for row in rows for event in _crossings(row)])


def thresholds(low_balance: int) -> dict[str, int]:
    """What is available above each level, at least; in microcredits."""
    return {"low": low_balance, "critical": low_balance // 4, "empty": 1}


def _crossings(row: Mapping[str, Any]) -> Iterator[Event]:
    """The thresholds that a balance fell through; one of 0, below which nobody is, is none."""
    account, version = row["account"], row["version"]
    above = thresholds(row["low_balance"])
    for level in LEVELS[LEVELS.index(row["was"]) + 1 : LEVELS.index(row["level"]) + 1]:
        if above[level] == 0:
            continue
        kind = f"balance.{level}"
        data = {
            "available": row["available"],
            "held": row["held"],
            "low_balance": row["low_balance"],
            "threshold": above[level],
            "version": version,
        }
        yield Event(kind, account, data, f"balance:{account}:{version}:{kind}")
