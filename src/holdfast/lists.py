"""Lists, as Postgres has them: what is settled, usually less than a second behind Redis.

Every list is read in pages of at most `limit`, each by an index from where the last one ended. A
cursor is a text of ours; another one is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson

from holdfast.errors import InvalidRequest
from holdfast.keys import is_id
from holdfast.model import Account, Grant, Hold, HoldState, Limits, Receipt
from holdfast.postgres import Pool
from holdfast.queries import sql

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A piece of a list, and the cursor of the next one, or None at the end."""

    data: list[T]
    next: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """The record of one transition. Amounts in microcredits; None: the transition moved none."""

    version: int
    seq: int
    type: str
    hold: str | None
    key: str | None
    member: str | None
    amount: int | None
    available: int
    held: int
    at_ms: int
    settled_ms: int
    request_id: str | None
    actor: str | None
    metadata: dict[str, Any] | None


async def accounts(
    pool: Pool, prefix: str = "", *, only: str | None = None, after: str | None, limit: int
) -> Page[Account]:
    """Accounts by id whose id begins with `prefix`, and is `only` if that is given."""
    if after is not None and not is_id(after):
        raise _bad_cursor()
    rows = await pool.fetch(sql("list_accounts"), prefix, after or "", limit + 1, only)
    data = [_account(row) for row in rows[:limit]]
    return Page(data, data[-1].account if len(rows) > limit else None)


async def entries(pool: Pool, account: str, *, after: str | None, limit: int) -> Page[Entry]:
    """An account's journal, oldest first; the cursor is a version."""
    version = 0 if after is None else _number(after)
    rows = await pool.fetch(sql("list_entries"), account, version, limit + 1)
    data = [_entry(row) for row in rows[:limit]]
    return Page(data, str(data[-1].version) if len(rows) > limit else None)


async def holds(
    pool: Pool, account: str, *, state: HoldState | None, after: str | None, limit: int
) -> Page[Hold]:
    """An account's holds in the order of their ids; those of a key that was used again, all."""
    key, opened = "", 0
    if after is not None:
        key, _, version = after.partition("~")  # which no id contains
        if not is_id(key):
            raise _bad_cursor()
        opened = _number(version)
    if state == "held":
        rows = await pool.fetch(sql("list_open_holds"), account, key, opened, limit + 1)
    else:
        rows = await pool.fetch(sql("list_holds"), account, key, opened, state, limit + 1)
    data = [_hold(account, row) for row in rows[:limit]]
    last = rows[limit - 1] if len(rows) > limit else None
    return Page(data, None if last is None else f"{last['key']}~{last['opened']}")


def _bad_cursor() -> InvalidRequest:
    return InvalidRequest.of_field("after", "must be `next` of the page before")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):  # a bigint has 19
        raise _bad_cursor()
    return int(text)


def _metadata(text: str | None) -> dict[str, Any] | None:
    return None if text is None else orjson.loads(text)


def _account(row: Any) -> Account:
    return Account(
        account=row["account"],
        status=row["status"],
        available=row["available"],
        held=row["held"],
        spent=row["spent"],
        granted=row["granted"],
        refunded=row["refunded"],
        forfeited=row["forfeited"],
        debt=row["debt"],
        overdraft_limit=row["overdraft_limit"] or 0,
        limits=Limits(
            *(row["daily_limit"], row["monthly_limit"], row["max_hold"], row["max_open_holds"]),
            models=None if row["models"] is None else row["models"].split(" "),
        ),
        low_balance=row["low_balance"],
        plan=row["plan"],
        metadata=_metadata(row["metadata"]),
        used_today=max(row["used_today"], 0),
        used_this_month=max(row["used_this_month"], 0),
        open_holds=row["open_holds"],
        version=row["version"],
        grants=[
            Grant(*grant)
            for grant in zip(
                row["ids"] or (),
                row["remainings"] or (),
                row["priorities"] or (),
                row["expiries_ms"] or (),
                strict=True,
            )
        ],
        durability="settled",
    )


def _hold(account: str, row: Any) -> Hold:
    return Hold(
        id=row["key"],
        account=account,
        member=row["member"],
        state=row["state"],
        amount=row["amount"],
        committed=row["committed"],
        remaining=row["remaining"],
        uncollected=row["uncollected"],
        late=bool(row["late"]),
        created_ms=row["made_ms"],
        deadline_ms=row["deadline_ms"],
        available=row["available"],
        held=row["held"],
        metadata=_metadata(row["metadata"]),
        replayed=False,
        receipt=Receipt(row["shard"], row["last_seq"], "", row["version"]),
        durability="settled",
        stale=row["due"],
    )


def _entry(row: Any) -> Entry:
    request_id, actor, metadata = _words(row["entry"])
    return Entry(
        version=row["version"],
        seq=row["seq"],
        type=row["type"],
        hold=row["hold"],
        key=row["key"],
        member=row["member"],
        amount=row["amount"],
        available=row["available"],
        held=row["held"],
        at_ms=row["at_ms"],
        settled_ms=row["settled_ms"],
        request_id=request_id,
        actor=actor,
        metadata=metadata,
    )


def _words(entry: str) -> tuple[str | None, str | None, dict[str, Any] | None]:
    """Request id, actor and metadata, as the caller sent them with the transition.

    An entry that was quarantined is there as it came, and may be no JSON at all.
    """
    try:
        context = orjson.loads(entry).get("context", {})
        return context.get("request_id"), context.get("actor"), context.get("metadata")
    except (ValueError, AttributeError):
        return None, None, None
