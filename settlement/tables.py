"""Applies a fold to the tables: accounts, records, grants, members, usage.

Every statement is one round trip for the whole batch. Each checks that the rows are what the batch
starts from, or counts the rows it changed. What does not fit is `Rejected`, and then the
transaction that this runs in is to be rolled back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from settlement import balances
from settlement.fold import AccountChange, Fold, RecordChange, Rejected
from settlement.queries import Connection, sql


async def apply(conn: Connection, fold: Fold) -> None:
    """Bring the tables to where the fold ends. Raises Rejected, and what asyncpg raises."""
    opened = [change for change in fold.accounts.values() if change.opened_ms is not None]
    known = [change for change in fold.accounts.values() if change.opened_ms is None]
    if opened:
        await _open(conn, opened)
    await _settings(conn, fold)  # first: a balance is told of by what is set at the batch's end
    if known:
        await _update(conn, known)
    await _records_and_members(conn, fold)
    if fold.grants:
        await _check_grants(conn, fold)
    if fold.usage:
        await _usage(conn, fold)


async def apply_but_balances(conn: Connection, fold: Fold) -> None:
    """What a fold says of settings, records, grants and members, and nothing of amounts."""
    await _settings(conn, fold)
    await _records_and_members(conn, fold)


async def _settings(conn: Connection, fold: Fold) -> None:
    changed = [change for change in fold.accounts.values() if change.settings]
    if changed:
        await conn.execute(
            sql("account_settings"),
            [change.account for change in changed],
            [_json(change.settings or {}) for change in changed],
        )


async def _records_and_members(conn: Connection, fold: Fold) -> None:
    if fold.records:
        await _records(conn, list(fold.records.values()))
    if fold.grants:
        await _grants(conn, fold)
    if fold.members:
        await _members(conn, fold)


async def _open(conn: Connection, changes: Sequence[AccountChange]) -> None:
    await conn.execute(
        sql("account_insert"),
        [c.account for c in changes],
        [c.shard for c in changes],
        [c.version for c in changes],
        [c.last_seq for c in changes],
        [c.last_grant_seq for c in changes],
        [c.last_refund_seq for c in changes],
        [c.by["base"] for c in changes],
        [c.by["debt"] for c in changes],
        [c.available for c in changes],
        [c.held for c in changes],
        [c.by["granted"] for c in changes],
        [c.by["refunded"] for c in changes],
        [c.by["spent"] for c in changes],
        [c.by["forfeited"] for c in changes],
        [c.opened_ms for c in changes],
    )


async def _update(conn: Connection, changes: Sequence[AccountChange]) -> None:
    row = await conn.fetchrow(
        sql("account_update"),
        [c.account for c in changes],
        [c.first_version for c in changes],
        [c.version for c in changes],
        [c.last_seq for c in changes],
        [c.last_grant_seq for c in changes],
        [c.last_refund_seq for c in changes],
        [c.by["base"] for c in changes],
        [c.by["debt"] for c in changes],
        [c.available for c in changes],
        [c.held for c in changes],
        [c.by["granted"] for c in changes],
        [c.by["refunded"] for c in changes],
        [c.by["spent"] for c in changes],
        [c.by["forfeited"] for c in changes],
        [c.by["held"] for c in changes],
    )
    if row["changed"] == len(changes):
        if row["crossed"]:
            await balances.cross(conn, row["crossed"])
        return
    rows = await conn.fetch(
        sql("account_unlike"),
        [c.account for c in changes],
        [c.version for c in changes],
        [c.available for c in changes],
        [c.held for c in changes],
    )
    by_name = {c.account: c for c in changes}
    found = [_unlike(row, by_name[row["account"]]) for row in rows]
    raise Rejected("; ".join(found) or "an account is already where this batch ends")


def _unlike(row: Mapping[str, Any], change: AccountChange) -> str:
    name = f"account {change.account}"
    if row["version"] is None:
        return f"{name} is not known, and is at version {change.first_version}"
    if row["quarantined"]:
        return f"{name} is in quarantine"
    return (
        f"{name} has version {row['version']}, available {row['available']} and held {row['held']};"
        f" entry version {change.first_version} starts from"
        f" available {change.available - change.moved} and held {change.held - change.by['held']}"
    )


async def _records(conn: Connection, changes: Sequence[RecordChange]) -> None:
    new = [change for change in changes if change.new]
    if new:
        await conn.execute(
            sql("record_insert"),
            [c.account for c in new],
            [c.key for c in new],
            [c.opened for c in new],
            [c.shard for c in new],
            [_json({name: text for name, text in c.fields.items() if text != ""}) for c in new],
        )
    known = [change for change in changes if not change.new]
    if known:
        status = await conn.execute(
            sql("record_update"),
            [c.account for c in known],
            [c.key for c in known],
            [c.opened for c in known],
            [_json({name: text or None for name, text in c.fields.items()}) for c in known],
        )
        if status != f"UPDATE {len(known)}":
            missing = f", among them {known[0].key} of account {known[0].account}"
            raise Rejected(f"{len(known)} records change, and not all of them are known{missing}")


async def _grants(conn: Connection, fold: Fold) -> None:
    left = [(*name, *values) for name, values in fold.grants.items() if values[2] > 0]
    gone = [name for name, values in fold.grants.items() if values[2] <= 0]
    if left:
        accounts, ids, expiries, priorities, remaining = zip(*left, strict=True)
        await conn.execute(sql("grant_upsert"), accounts, ids, expiries, priorities, remaining)
    if gone:
        accounts, ids = zip(*gone, strict=True)
        await conn.execute(sql("grant_delete"), accounts, ids)


async def _check_grants(conn: Connection, fold: Fold) -> None:
    touched = list({account for account, _ in fold.grants})
    for row in await conn.fetch(sql("grant_unlike"), touched):
        raise Rejected(
            f"account {row['account']} has {row['in_grants']} in expiring grants, which hold"
            f" {row['in_rows']}"
        )


async def _members(conn: Connection, fold: Fold) -> None:
    await conn.execute(
        sql("member_upsert"),
        [account for account, _ in fold.members],
        [member for _, member in fold.members],
        *zip(*fold.members.values(), strict=True),
    )


async def _usage(conn: Connection, fold: Fold) -> None:
    accounts, days, members, models = zip(*fold.usage, strict=True)
    await conn.execute(
        sql("usage_upsert"),
        accounts,
        days,
        members,
        models,
        [change.used for change in fold.usage.values()],
        [change.spent for change in fold.usage.values()],
        [change.calls for change in fold.usage.values()],
    )


def _json(fields: Mapping[str, str | None]) -> str:
    return orjson.dumps(fields).decode()
