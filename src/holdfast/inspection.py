"""Everything the two stores know of one account, next to each other: what `holdfast inspect` shows.

Postgres is read first, in one snapshot with the mark of the shard; then Redis, in one MULTI, with
the number of its last entry; then the entries in between, from the stream. What Redis must have is
the one plus the other, by the rules of `reconcile` (settlement/expectation.py); a value that is so,
and that Postgres has otherwise, is only not settled yet.

Nothing is changed, and nobody is kept waiting. Everything that is read later is at least as new, so
that a busy account is no difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from holdfast import diagnosis, standing
from holdfast.config import Config
from holdfast.errors import InvalidRequest, NotFound
from holdfast.keys import is_id
from holdfast.moment import (
    MAX_OPEN,
    Behind,
    Moment,
    RedisKey,
    read_behind,
    read_keys,
    read_moment,
    read_records,
    read_settled,
)
from holdfast.queries import sql
from holdfast.shards import Shards
from holdfast.standing import Line, Use
from settlement import incidents, quarantine
from settlement.expectation import Settled, expect, fields_of, in_redis, in_tables, limits_of
from settlement.fold import Fold
from settlement.queries import Connection
from settlement.queries import sql as settlement_sql
from settlement.reader import Entry
from settlement.verdict import Mark

# Records that ended, of which the last are looked at.
MAX_CLOSED: Final = 20
LAST_ENTRIES: Final = 5
# What was settled and trimmed, or reserved, while it was read is read again so often.
_TRIES: Final = 4


@dataclass(slots=True)
class Inspection:
    """What was found. `findings` are sentences for people; `differs` if the stores disagree."""

    account: str
    prefix: str
    shard: int
    node: str
    keys: list[RedisKey]
    meta: dict[str, str]
    leases: dict[str, int]
    """What is left of each lease in ms; 0: none that counts."""
    row: dict[str, Any]
    """The shard as Postgres has it."""
    lines: list[Line]
    entries: list[dict[str, Any]]
    """The last ones in the journal, oldest first."""
    unsettled: list[dict[str, Any]]
    """Entries of the account that the journal does not have yet."""
    quarantined: list[dict[str, Any]]
    incidents: list[dict[str, Any]]
    findings: list[str] = field(default_factory=list)
    differs: bool = False
    summary: str = ""


@dataclass(slots=True)
class _Postgres:
    row: dict[str, Any]
    settled: Settled
    use: dict[str, int] | None
    """The last day with any use (YYYYMMDD), what it used, and its month."""
    entries: list[dict[str, Any]]
    quarantined: list[dict[str, Any]]
    incidents: list[dict[str, Any]]

    def used(self, today: int) -> Use:
        if self.use is None:
            return Use()
        day, month = self.use["day"] == today, self.use["day"] // 100 == today // 100
        return Use(
            max(self.use["used_day"], 0) if day else 0,
            max(self.use["used_month"], 0) if month else 0,
        )


@dataclass(slots=True)
class _Sides:
    """All that was read, in the order in which it was."""

    settled_before: int
    """Up to which entry Redis knew the shard to be settled before Postgres was asked."""
    postgres: _Postgres
    redis: Moment
    behind: Behind
    later: list[Entry]
    """Entries of the account between that moment and the one at which its records were read."""


async def inspect_account(
    shards: Shards, conn: Connection, config: Config, account: str
) -> Inspection:
    """Look at one account in both stores.

    Raises InvalidRequest, NotFound where neither knows it, wire.WireError, what asyncpg raises.
    """
    if not is_id(account):
        raise InvalidRequest.of_field("account", "must be 1 to 128 of A-Z a-z 0-9 _ . : -")
    number = shards.number_of(account)
    sides = await _read(shards, conn, config, account)
    postgres, redis, mine = sides.postgres, sides.redis, sides.behind.mine
    if postgres.settled.row is None and not redis.live.acct and not mine:
        raise NotFound(f"neither store knows an account {account!r}", code="account_not_found")
    found = Inspection(
        account=account,
        prefix=config.prefix,
        shard=number,
        node=str(shards.node_of(number).address),
        keys=await read_keys(shards, number, account, redis.live),
        meta=redis.meta,
        leases=redis.leases,
        row=postgres.row,
        lines=_lines(account, sides),
        entries=postgres.entries,
        unsettled=[_told(entry) for entry in mine],
        quarantined=postgres.quarantined,
        incidents=postgres.incidents,
    )
    _judge(found, sides)
    return found


async def _read(shards: Shards, conn: Connection, config: Config, account: str) -> _Sides:
    number = shards.number_of(account)
    named: dict[str, int] = {}
    for attempt in range(_TRIES):
        settled_before = await read_settled(shards, number)
        postgres = await _read_postgres(conn, config, number, account, named)
        redis = await read_moment(shards, number, account)
        mark = Mark(postgres.row["mark"], postgres.row["chain"])
        behind = await read_behind(shards, number, account, mark, redis.seq)
        # What an entry that waits changes may have ended long ago: then it is read by name.
        changes = behind.fold.records.items()
        changed = {key: opened for (_, key, opened), change in changes if not change.new}
        known = changed.keys() <= postgres.settled.records.keys() | named.keys()
        if attempt == _TRIES - 1 or (known and not behind.fault):
            break
        named |= changed
    names = {key for _, key, _ in behind.fold.records} | redis.live.opens.keys()
    names |= postgres.settled.records.keys()
    seq = await read_records(shards, number, account, redis.live, names)
    later: list[Entry] = []
    if not behind.fault:
        later = (await read_behind(shards, number, account, behind.end, seq)).mine
    return _Sides(settled_before, postgres, redis, behind, later)


def _lines(account: str, sides: _Sides) -> list[Line]:
    """The sides next to each other."""
    live, today, fold = sides.redis.live, sides.redis.today, sides.behind.fold
    settled = expect(sides.postgres.settled, account, Fold())
    expected = expect(sides.postgres.settled, account, fold)
    use = sides.postgres.used(today)
    values = standing.values_in_redis(live, standing.use_in_redis(live.acct, today))
    wanted = standing.values_of(expected, use.and_unsettled(fold, today))
    moved = {key for entry in sides.later for key in (entry.hold or entry.key, entry.of) if key}
    return [
        *standing.compare(values if live.acct else None, standing.values_of(settled, use), wanted),
        *standing.compare_members(live, settled, expected),
        *standing.compare_records(live, settled, expected, moved),
    ]


def _judge(found: Inspection, sides: _Sides) -> None:
    """Say what all of it means."""
    redis, behind, settled = sides.redis, sides.behind, sides.postgres.settled
    live = redis.live
    expected = expect(settled, found.account, behind.fold)
    wrong = [f"of the wrong type: {each}" for each in redis.damage]
    wrong += [detail for _, detail in in_tables(settled)]
    wrong += [detail for _, detail in in_redis(expected, live, sides.later, whole=True)]
    # One that was settled since Postgres was read may rightly be evicted by now.
    waiting = [entry for entry in behind.mine if entry.seq > redis.settled]
    if not live.acct and waiting:
        wrong.append("the stream has entries of this account, and Redis has lost its hash")
    if found.quarantined:
        first = found.quarantined[-1]
        wrong.append(
            f"{len(found.quarantined)} entries are in quarantine, from entry {first['seq']} on:"
            f" {first['error']}"
        )
    deadlines = [*live.opens.values(), *(grant[0] for grant in expected.grants.values())]
    parts = [
        diagnosis.of_shard(found.row, redis.meta, redis.leases, behind.fault, sides.settled_before),
        diagnosis.of_entries(len(behind.mine)),
        diagnosis.of_deadlines(deadlines, redis.at_ms),
    ]
    wrong += [text for part in parts for text in part.wrong]
    waits = [text for part in parts for text in part.waits]
    if not live.acct and not waiting:
        waits.append("not in Redis: it is loaded from Postgres when it is next used")
    if len(live.opens) == MAX_OPEN:
        waits.append(f"only {MAX_OPEN} open holds were looked at; `holdfast reconcile` takes all")
    found.findings = wrong + waits
    found.findings += [f"incident {each['id']}: {each['summary']}" for each in found.incidents]
    found.differs = bool(wrong) or any(line.verdict == "differs" for line in found.lines)
    unsettled = len(behind.mine)
    found.summary = diagnosis.summary(found.lines, wrong=bool(wrong), unsettled=unsettled)


# ── Postgres ─────────────────────────────────────────────────────────────────────────────────────


async def _read_postgres(
    conn: Connection, config: Config, number: int, account: str, named: Mapping[str, int]
) -> _Postgres:
    """One snapshot; `named` are records (key, opening version) that are read whatever their age."""
    since = datetime.now(UTC) - timedelta(seconds=config.key_window_s)
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        (row,) = await conn.fetch(settlement_sql("shard_rows"), [number])
        settled = await _read_settled(conn, account, since, named)
        use = await conn.fetchrow(sql("load_used"), account)
        after = settled.version - LAST_ENTRIES
        entries = await conn.fetch(sql("list_entries"), account, after, LAST_ENTRIES)
        open_incidents = await incidents.listing(conn, only_open=True)
        return _Postgres(
            row=dict(row),
            settled=settled,
            use=None if use is None else dict(use),
            entries=[dict(entry) for entry in entries],
            quarantined=await quarantine.listing(conn, account=account, only_open=True),
            incidents=[
                each
                for each in open_incidents
                if each["account"] == account
                or (each["account"] is None and each["shard"] == number)
            ],
        )


async def _read_settled(
    conn: Connection, account: str, since: datetime, named: Mapping[str, int]
) -> Settled:
    names = [account]
    settled = Settled(await conn.fetchrow(settlement_sql("reconcile_accounts"), names))
    for row in await conn.fetch(settlement_sql("reconcile_grants"), names):
        settled.grants[row["id"]] = (row["expires_ms"], row["priority"], row["remaining"])
    for row in await conn.fetch(settlement_sql("reconcile_members"), names):
        settled.members[row["member"]] = limits_of(row)
    columns = [account] * len(named), list(named.keys()), list(named.values())
    for row in await conn.fetch(settlement_sql("reconcile_records_named"), *columns):
        settled.records[row["key"]] = fields_of(row["fields"])
    closed = await conn.fetch(sql("load_closed_records"), account, since, MAX_CLOSED)
    for row in closed[::-1]:  # the newest row of a key last, and its open one after all
        settled.records[row["key"]] = fields_of(row["fields"])
    for row in await conn.fetch(settlement_sql("reconcile_records"), names, False, 0.0):
        settled.records[row["key"]] = fields_of(row["fields"])
    return settled


def _told(entry: Entry) -> dict[str, Any]:
    """An entry in the words of a journal page."""
    names = ("seq", "version", "type", "key", "hold", "member", "amount", "available", "held")
    return {name: getattr(entry, name) for name in names} | {"at_ms": entry.at}
