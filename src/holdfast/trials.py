"""Trials: accounts that may spend up to a limit and pay nothing, once each, until they pay.

    start ──▶ active ──▶ ended        by an operator, or when its credits expire
                 └─────▶ overridden   by a sign of a paid plan

To start a trial is to owe the account its spending limit, once, through the outbox. What it may
spend without paying is what it has: Redis decides that as for any account, and knows no trials.
The trial itself is a fact in Postgres that says nobody pays here. Whatever shows that somebody does
overrides it; the worker looks for that (`settlement/trials.py`). Ended either way, an account keeps
its credits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import orjson

from holdfast import audit, outbox
from holdfast.arguments import check
from holdfast.errors import Conflict, InvalidRequest, NotFound
from holdfast.ledger import Ledger
from holdfast.lists import Page
from holdfast.model import Account
from holdfast.postgres import Pool
from holdfast.queries import sql
from holdfast.telemetry import Reading

State = Literal["active", "ended", "overridden"]
Sign = Literal[
    "paid_plan", "allowance", "purchase", "customer_id", "subscription_id", "overdraft_limit"
]

KEY: Final = "trial"
"""The idempotency key of the grant."""
ALERT: Final = 3
"""So many overridden within a day are no chance: somebody starts trials for who pays."""

# Names in an account's metadata by which billing systems are found again.
_NAMES: Final[Sequence[Sign]] = ("customer_id", "subscription_id")
# Columns of trial_signs.sql that are signs by themselves.
_FLAGS: Final[Sequence[Sign]] = ("paid_plan", "allowance", "purchase")
# What makes two requests the same, in the order in which a difference is named.
_CONTENT: Final = ("spending_limit", "expires_at")


@dataclass(frozen=True, slots=True)
class Trial:
    """The trial of an account. `spending_limit` is in microcredits."""

    account: str
    spending_limit: int
    expires_at: datetime | None
    """When what is left of its credits expires, and the trial ends; None: never."""
    state: State
    granted: Literal["pending", "applied", "failed"]
    """Its grant: pending until the journal has it; failed: see the outbox."""
    started_at: datetime
    ended_at: datetime | None
    ended_by: str | None
    reason: str | None
    signs: list[Sign]
    """What overrode it; none unless it was overridden."""


def _trial(row: Mapping[str, Any]) -> Trial:
    values = {name: row[name] for name in Trial.__slots__}
    return Trial(**values | {"signs": orjson.loads(row["signs"])})


async def start(
    ledger: Ledger,
    account: str,
    spending_limit: int,
    *,
    expires_at: datetime | None = None,
    by: audit.Caller,
) -> tuple[Trial, bool]:
    """Start the trial of an account; answers it, and whether that is new.

    The same again answers what became of the first one. Raises Conflict (`trial_refused`: the
    account shows `signs` of a paid plan; `trial_used`: it had a trial with another content;
    `account_closed`), InvalidRequest, NotFound for an account that does not exist, Unavailable.
    """
    check({"amount": spending_limit}, required="amount", account=account)
    asked = {"spending_limit": spending_limit, "expires_at": expires_at}
    found = await ledger.get_account(account)
    async with ledger.pool.acquire() as conn, conn.transaction():
        row = await conn.fetchrow(sql("insert_trial"), account, *asked.values())
        if row is None:
            before = _trial(await conn.fetchrow(sql("find_trial"), account))
            for field in _CONTENT:
                if getattr(before, field) != asked[field]:
                    raise _used(account, field)
            return before, False
        await _check_new(conn, found, expires_at)
        await _owe(conn, account, spending_limit, expires_at)
        after: dict[str, Any] = {"spending_limit": spending_limit}
        if expires_at is not None:
            after["expires_at"] = expires_at.isoformat()
        await _note(conn, by, "trial.start", account, after=after)
        return _trial(row), True


async def _check_new(conn: Any, found: Account, expires_at: datetime | None) -> None:
    """Refuse a trial that cannot begin; its row is written, and goes with the transaction."""
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise InvalidRequest.of_field("expires_at", "must be in the future")
    if found.status == "closed":
        raise Conflict(f"account {found.account!r} is closed", "account_closed")
    # Redis may know what the journal does not have yet.
    now = {"metadata": found.metadata, "overdraft_limit": found.overdraft_limit}
    row = dict(await conn.fetchrow(sql("trial_signs"), found.account, 1)) | now
    if signs := signs_of(row):
        raise Conflict(
            f"account {found.account!r} is no trial account: {', '.join(signs)}",
            "trial_refused",
            signs=signs,
        )


async def _owe(conn: Any, account: str, amount: int, expires_at: datetime | None) -> None:
    if not await outbox.enqueue(
        conn,
        account=account,
        key=KEY,
        origin=f"trial of {account}",
        amount=amount,
        source="promo",
        expires_at=expires_at,
        metadata={"trial": True},
    ):
        raise RuntimeError(f"the trial of {account} is new, and the outbox had it already")


def _used(account: str, field: str) -> Conflict:
    return Conflict(
        f"account {account!r} had its trial, with another {field}; an account has one, ever",
        "trial_used",
        field=field,
    )


async def end(pool: Pool, account: str, *, reason: str | None = None, by: audit.Caller) -> Trial:
    """End a trial. Its credits stay, and the account has no other one. One that is over stays so.

    Raises NotFound, StoreUnavailable.
    """
    async with pool.acquire() as conn, conn.transaction():
        if await conn.fetchval(sql("end_trial"), account, by.actor, reason) is not None:
            after = {"state": "ended"} | ({} if reason is None else {"reason": reason})
            await _note(conn, by, "trial.end", account, before={"state": "active"}, after=after)
        row = await conn.fetchrow(sql("find_trial"), account)
    return _found(row, account)


async def find(pool: Pool, account: str) -> Trial:
    """The trial of an account, also one that is over. Raises NotFound, StoreUnavailable."""
    return _found(await pool.fetchrow(sql("find_trial"), account), account)


def _found(row: Mapping[str, Any] | None, account: str) -> Trial:
    if row is None:
        raise NotFound(f"account {account!r} has no trial")
    return _trial(row)


async def page(
    pool: Pool, *, state: State | None = None, after: str | None = None, limit: int = 100
) -> Page[Trial]:
    """Trials by account, those after `after`. Raises StoreUnavailable."""
    rows = await pool.fetch(sql("list_trials"), after or "", limit + 1, state)
    data = [_trial(row) for row in rows[:limit]]
    return Page(data, data[-1].account if len(rows) > limit else None)


# ── signs ────────────────────────────────────────────────────────────────────────────────────────


def signs_of(row: Mapping[str, Any]) -> list[Sign]:
    """What says that an account pays, in a row of trial_signs.sql.

    `metadata` is the account's, as an object or as the text of one, or None.
    """
    signs: list[Sign] = [name for name in _FLAGS if row[name]]
    metadata = row["metadata"]
    if isinstance(metadata, str):
        metadata = orjson.loads(metadata)
    for name in _NAMES:
        value = metadata.get(name) if isinstance(metadata, dict) else None
        if value is not None and str(value).strip():
            signs.append(name)
    if row["overdraft_limit"] > 0:  # who may owe can spend more than he was given
        signs.append("overdraft_limit")
    return signs


async def close(conn: Any, over: Mapping[str, Sequence[Sign]]) -> dict[str, list[Sign]]:
    """End active trials in the caller's transaction, by the signs of each account; answers those
    that it ended.

    An account without signs is one whose trial has expired. Each is in the audit. What another
    worker is at is left to it. Raises what asyncpg raises.
    """
    texts = [orjson.dumps(signs).decode() for signs in over.values()]
    rows = await conn.fetch(sql("close_trials"), list(over), texts)
    ended = {row["account"]: orjson.loads(row["signs"]) for row in rows}
    if not ended:
        return ended
    await audit.record_rows(
        conn,
        [
            audit.Row(
                audit.SYSTEM,
                "trial.override" if signs else "trial.end",
                f"account:{account}",
                account,
                before={"state": "active"},
                after={"state": "overridden", "signs": signs}
                if signs
                else {"state": "ended", "reason": "expired"},
            )
            for account, signs in ended.items()
        ],
    )
    return ended


async def _note(
    conn: Any,
    by: audit.Caller,
    action: str,
    account: str,
    *,
    after: Mapping[str, Any],
    before: Mapping[str, Any] | None = None,
) -> None:
    subject = f"account:{account}"
    await audit.record_as(
        by, conn, action=action, subject=subject, account=account, before=before, after=after
    )


async def gauges(pool: Pool) -> Iterator[Reading]:
    """How many were overridden lately, as gauges of telemetry.METRICS. Raises StoreUnavailable."""
    row = await pool.fetchrow(sql("trials_overridden"))
    assert row is not None  # it counts
    return iter([("holdfast_trials_overridden_recent", (), float(row["recent"]))])
