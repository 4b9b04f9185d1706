"""Reconcile: do the journal, the tables and Redis tell the same story? Looks, and never repairs.

Per shard, on a live system, without stopping anybody:

    journal     numbers without a gap, the chain computed again, versions and balances of every
                account as its entries add up, the mark (`full`; audit.py, one snapshot)
    tables      available + held and its sources, what is held by open holds, what is in grants
    Redis       the stream behind the mark links; every account is the tables plus its unsettled
                entries: balances, counters, settings, grants, members, open holds and their
                deadlines, records; `due` looks at it in time; no time to live where money depends
                on the key (comparison.py, a page of accounts in a snapshot of its own)
    strays      accounts in Redis that neither the journal nor the stream knows (`full`)

What moves is read again, a bounded number of times; then it was not compared, which is an answer of
its own. Exit codes: 0 all agree, 1 something differs, 2 nothing differs in what could be compared.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

from holdfast.keys import account_of, acct_pattern, is_id
from holdfast.shards import Shards
from holdfast.wire import Node, WireError
from settlement.audit import Audit
from settlement.comparison import Comparison, NotComparable
from settlement.failures import POSTGRES_FAILURES, described
from settlement.queries import Pool, sql
from settlement.report import Finding, Report

__all__ = ["Finding", "Report", "reconcile"]

# Accounts of one snapshot: some 1,200 commands, below 10 ms of Redis's time, 20 ms of Postgres's.
_PAGE: Final = 200
_SCAN_COUNT: Final = 1000


async def reconcile(
    pool: Pool,
    shards: Shards,
    *,
    window_s: int,
    account: str | None = None,
    full: bool = True,
) -> Report:
    """Compare everything, or one `account`.

    `window_s` is how long records live in Redis after their end (`config.key_window_s`). `full`
    reads the whole journal and every record of that time; without it, balances, settings and open
    holds are compared. `pool` is one of `settlement.pool.open_pool`: a journal takes longer to read
    than a call may. Stores that are away are an answer: what they have was not compared.
    """
    report = Report()
    if account is not None:
        with _away(report, f"account {account}"):
            await _account(report, pool, shards, account, window_s=window_s)
        return report
    comparisons = [
        Comparison(pool, shards, number, report, window_s=window_s, whole=full)
        for number in range(shards.count)
    ]
    for number, comparison in enumerate(comparisons):
        with _away(report, f"shard {number}"):
            if full:
                await Audit(report, number).shard(pool)
            await _shard(comparison, pool, number)
        comparison.rest()
    if full:
        with _away(report, "strays"):
            await _strays(comparisons, pool, shards)
    return report


@contextmanager
def _away(report: Report, what: str) -> Iterator[None]:
    """A store that is away, or a shard that is closed, ends this part only."""
    try:
        yield
    except NotComparable as error:
        report.skip(str(error))
    except (WireError, *POSTGRES_FAILURES) as error:
        report.skip(f"{what}: {described(error)}")


async def _account(
    report: Report, pool: Pool, shards: Shards, account: str, *, window_s: int
) -> None:
    number = shards.number_of(account)
    await Audit(report, number).account(pool, account)
    comparison = Comparison(pool, shards, number, report, window_s=window_s, whole=True)
    await comparison.accounts([account])
    if not comparison.found:
        report.skip(f"account {account}: neither store knows it")


async def _shard(comparison: Comparison, pool: Pool, number: int) -> None:
    """The shard itself, the accounts that Postgres knows, and those only the stream has so far."""
    await comparison.accounts()
    after = ""
    while True:
        rows = await pool.fetch(sql("reconcile_page"), number, after, _PAGE)
        if not rows:
            break
        names = [row["account"] for row in rows]
        await comparison.accounts(names)
        after = names[-1]
    opened = sorted(comparison.opened)
    for start in range(0, len(opened), _PAGE):
        await comparison.accounts(await _unknown(pool, opened[start : start + _PAGE]))


async def _unknown(pool: Pool, names: list[str]) -> list[str]:
    """Those of these accounts that Postgres does not know."""
    known = {row["account"] for row in await pool.fetch(sql("reconcile_known"), names)}
    return [name for name in names if name not in known]


async def _strays(comparisons: list[Comparison], pool: Pool, shards: Shards) -> None:
    """Accounts that Redis has and Postgres lacks: known to the stream at most."""
    pattern = acct_pattern(shards.prefix)
    for node in shards.wire.nodes():
        async for names in _scan(node, pattern):
            by_shard: dict[int, list[str]] = {}
            for name in await _unknown(pool, names):
                by_shard.setdefault(shards.number_of(name), []).append(name)
            for number, unknown in by_shard.items():
                await comparisons[number].accounts(unknown)
                comparisons[number].rest()


async def _scan(node: Node, pattern: bytes) -> AsyncIterator[list[str]]:
    """The accounts of a node, some at a time, some more than once."""
    cursor = b"0"
    while True:
        cursor, keys = await node.call("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
        names = [account_of(key) for key in keys]
        if names:
            yield [name for name in names if is_id(name)]
        if cursor == b"0":
            return
