"""Every setting that money depends on, looked at where it is in force: `holdfast doctor`.

Stores first (`checks.py`), then what settlement makes of them, and what must fit into Redis: the
backlog at its limit, and the records of the idempotency window. Each check says what was found, and
how to mend it. Nothing is changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from holdfast import deliveries, trials
from holdfast.checks import Check, Level, Sheet, clocks, database, redis_node
from holdfast.config import Config
from holdfast.queries import sql
from holdfast.shards import Shards
from holdfast.wire import ServerError, Wire, WireError
from settlement.clocks import SLACK_MS
from settlement.lease import FULL
from settlement.queries import Connection
from settlement.rebuild import UNSETTLED_MAX
from settlement.redis_settings import read_info

_CALL_TIMEOUT_MS: Final = 2000
_CONNECT_S: Final = 2.0
_STATEMENT_S: Final = 20.0

# A worker says twice a second that it lives, and its claims last 3 s.
_WORKER_S: Final = 3.0
# A lease ends 2 s after the proof of life that it rests on.
_PROOF_S: Final = 2.0
# An event is sent within a second, and once more after 5 s; the third attempt is after 5 min.
_DELIVERY_S: Final = 600.0
# lua/lib/fence.lua: unsettled entries of a shard that stop new spending.
_B1: Final = 20_000
# What an entry takes that ends work, measured with ids of 20 to 36 characters: a commit has 590 B
# of stream and 60 B more in its record, a heartbeat 360 B, a partial commit 1,100 B with what it
# remembers of its key.
_ENTRY_BYTES: Final = 700
# Of maxmemory, what records may take before it is worth a word: the rest is accounts and streams.
_WINDOW_SHARE: Final = 0.5
_SAMPLE_ENTRIES: Final = 500
_SAMPLE_KEYS: Final = 5


def exit_code(checks: list[Check]) -> int:
    """0: nothing fails, 1: something does, 2: something could not be looked at."""
    levels = {check.level for check in checks}
    if "fail" in levels:
        return 1
    return 2 if "unknown" in levels else 0


async def examine(config: Config) -> list[Check]:
    """Look at everything. Stores that are away are `unknown`; nothing is raised because of them."""
    async with _redis(config) as (wire, redis_away), _postgres(config) as (conn, postgres_away):
        checks: list[Check] = []
        if wire is None:
            checks.append(_away("redis", redis_away, "start it, or mend HOLDFAST_REDIS_URL"))
        else:
            for node in wire.nodes():
                checks += await redis_node(node, config)
        if conn is None:
            mend = "start it, or mend HOLDFAST_DATABASE_URL"
            checks.append(_away("postgres", postgres_away, mend))
            return checks
        checks += await _guarded("postgres", database(conn, config))
        if any(check.level == "fail" and check.name == "schema" for check in checks):
            return checks  # its tables are not what the questions below are about
        if wire is not None:
            checks += await _guarded("clocks", clocks(wire, conn))
        shards = None
        if wire is not None:
            shards = Shards(wire, config.prefix, config.shards, test_clock=config.test_clock)
        checks += await _guarded("settlement", _settlement(shards, conn))
        if shards is not None:
            checks += await _guarded("redis memory", _memory(shards, conn, config))
        return checks


def _away(about: str, why: str, mend: str) -> Check:
    return Check(about, "reachable", "unknown", why, mend)


async def _guarded(about: str, look: Awaitable[list[Check]]) -> list[Check]:
    """The checks of one part, or that it could not be looked at."""
    try:
        return await look
    except (WireError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        return [_away(about, f"{type(error).__name__}: {error}", "run doctor again")]


@asynccontextmanager
async def _redis(config: Config) -> AsyncIterator[tuple[Wire | None, str]]:
    try:
        wire = Wire(config.redis_url or "", timeout_ms=_CALL_TIMEOUT_MS)
        await wire.connect()
    except (WireError, ValueError) as error:
        yield None, str(error)
        return
    try:
        yield wire, ""
    finally:
        await wire.close()


@asynccontextmanager
async def _postgres(config: Config) -> AsyncIterator[tuple[Connection | None, str]]:
    try:
        conn = await asyncpg.connect(
            config.database_url,
            timeout=_CONNECT_S,
            command_timeout=_STATEMENT_S,
            server_settings={"application_name": "holdfast-cli"},
        )
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        yield None, str(error) or f"no connection within {_CONNECT_S:.0f} s"
        return
    try:
        yield conn, ""
    finally:
        conn.terminate()


# ── settlement ───────────────────────────────────────────────────────────────────────────────────


async def _settlement(shards: Shards | None, conn: Connection) -> list[Check]:
    sheet = Sheet("settlement")
    workers = await conn.fetchrow(sql("doctor_workers"), _WORKER_S)
    alive, seen_s = workers["alive"], workers["last_seen_s"]
    last = "never seen" if seen_s is None else f"last seen {seen_s:,.1f} s ago"
    sheet.expect(
        "workers",
        alive > 0,
        f"{alive} alive" if alive else f"none alive, {last}",
        "start `holdfast settle`",
    )
    rows = await conn.fetch(sql("doctor_shards"))
    _add_states(sheet, rows)
    if shards is not None:
        await _add_leases(sheet, shards, rows)
        await _add_recorded_times(sheet, shards)
    trouble = await conn.fetchrow(sql("doctor_trouble"))
    since = f", since {trouble['oldest']:%Y-%m-%d %H:%M} UTC" if trouble["oldest"] else ""
    sheet.expect(
        "incidents",
        not trouble["incidents"],
        f"{trouble['incidents']} open{since}",
        "`holdfast incident list --open`, and close what was dealt with",
        "warn",
    )
    sheet.expect(
        "quarantine",
        not trouble["entries"],
        f"{trouble['entries']} entries of {trouble['accounts']} accounts"
        + (", which are frozen" if trouble["entries"] else ""),
        "`holdfast quarantine list --open`, then apply or void",
    )
    sheet.expect(
        "money in",
        not trouble["owed"] and not trouble["events"],
        f"{trouble['owed']} rows of the outbox failed, {trouble['events']} events for review",
        "`holdfast outbox list --state failed`, `holdfast payment list --state review`",
        "warn",
    )
    owed = await conn.fetchrow(sql("compensation_counts"))
    oldest = f", since {owed['oldest_failed']:%Y-%m-%d %H:%M} UTC" if owed["failed"] else ""
    sheet.expect(
        "compensations",
        not owed["failed"],
        f"{owed['failed']} failed{oldest}; {owed['pending']} pending",
        "`holdfast compensation list --state failed`, mend what it says, and `retry`",
        "warn",
    )
    _add_deliveries(sheet, await deliveries.standing(conn))
    await _add_trials(sheet, conn)
    if trouble["lost"]:
        sheet.add(
            "lost entries",
            "warn",
            f"{trouble['lost']} kept from rebuilds, in no account",
            "`holdfast quarantine list --open` shows what they were",
        )
    return sheet.checks


def _add_deliveries(sheet: Sheet, found: deliveries.Standing) -> None:
    """Events on their way to endpoints: what was given up, and what takes long."""
    sheet.expect(
        "dead deliveries",
        not found.dead,
        f"{found.dead:,} events did not reach an endpoint",
        "`holdfast delivery list --state dead`, mend the receiver, `holdfast delivery resend`",
        "warn",
    )
    sheet.expect(
        "pending deliveries",
        found.oldest_s <= _DELIVERY_S,
        f"{found.pending:,}" + (f", the oldest for {found.oldest_s:,.0f} s" * bool(found.pending)),
        "`holdfast delivery list --state pending` says why",
        "warn",
    )


async def _add_trials(sheet: Sheet, conn: Connection) -> None:
    """Trials that turned out to be of accounts that pay: one happens, several have a cause."""
    row = await conn.fetchrow(sql("trials_overridden"))
    sheet.expect(
        "trials",
        row["recent"] < trials.ALERT,
        f"{row['recent']:,} overridden within 24 h by signs of a paid plan",
        "`holdfast trial list --state overridden` says by which; mend what starts those trials",
        "warn",
    )


def _add_states(sheet: Sheet, rows: list[Any]) -> None:
    stopped = [row for row in rows if row["state"] == "stopped"]
    closed = [row for row in rows if row["state"] in ("vetting", "rebuilding")]
    found = f"{len(rows) - len(stopped) - len(closed)} of {len(rows)} open"
    for some, word in ((stopped, "stopped"), (closed, "being vetted")):
        if some:
            found += f"; {word}: {_numbers(some)} ({some[0]['state_reason'] or 'never vetted'})"
    level: Level = "fail" if stopped else "warn" if closed else "ok"
    mend = "a worker opens them" if not stopped else "`holdfast incident list`, then `rebuild`"
    sheet.add("shards", level, found, mend)
    open_rows = [row for row in rows if row["state"] == "open"]
    ages = {row["id"]: row["proof_age_s"] for row in open_rows}
    silent = [row for row in open_rows if ages[row["id"]] is None or ages[row["id"]] > _PROOF_S]
    oldest = max((age or 0.0 for age in ages.values()), default=0.0)
    sheet.expect(
        "proof of life",
        not silent,
        f"{oldest:.1f} s ago" if not silent else f"older than {_PROOF_S:.0f} s: {_numbers(silent)}",
        "start `holdfast settle`; if it runs, its log says why",
    )


async def _add_leases(sheet: Sheet, shards: Shards, rows: list[Any]) -> None:
    """Leases and backlog of every shard, from Redis."""

    async def one(row: Any) -> tuple[Any, bool, bool, int]:
        keys = shards.keys[row["id"]]
        call = shards.wire.call
        new, finish, seq = await asyncio.gather(
            call(keys.slot, "GET", keys.lease_new),
            call(keys.slot, "GET", keys.lease_finish),
            call(keys.slot, "HGET", keys.meta, "seq"),
        )
        nonce = row["nonce"].encode()
        return row, bool(nonce) and new == nonce, bool(nonce) and finish == nonce, int(seq or 0)

    found = await asyncio.gather(*(one(row) for row in rows if row["id"] < shards.count))
    closed = [row for row, _new, finish, _seq in found if not finish]
    ending = [row for row, new, finish, _seq in found if finish and not new]
    text = f"{len(found) - len(closed) - len(ending)} of {len(found)} shards take new spending"
    if ending:
        text += f"; may only finish: {_numbers(ending)}"
    if closed:
        text += f"; closed: {_numbers(closed)}"
    mend = "start `holdfast settle`; if it runs: memory, clocks and Postgres above, and its log"
    sheet.expect("leases", not closed and not ending, text, mend)
    behind = [max(seq - row["mark"], 0) for row, _new, _finish, seq in found]
    most = max(behind, default=0)
    level: Level = "fail" if most >= _B1 else "warn" if most >= _B1 / 2 else "ok"
    found_text = f"{sum(behind):,} entries unsettled, at most {most:,} in a shard ({_B1:,} stop it)"
    sheet.add("backlog", level, found_text, "more or faster workers, a faster Postgres")


async def _add_recorded_times(sheet: Sheet, shards: Shards) -> None:
    """Shards that are closed until time has caught up with what they have recorded."""

    async def ahead_ms(number: int) -> int:
        keys, node = shards.keys[number], shards.node_of(number)
        recorded, (seconds, _micros) = await asyncio.gather(
            node.call("HGET", keys.meta, "clock_ms"), node.call("TIME")
        )
        return int(recorded or 0) - int(seconds) * 1000

    found = await asyncio.gather(*map(ahead_ms, range(shards.count)))
    # A second of TIME has begun up to a second ago.
    ahead = [{"id": n} for n, by_ms in enumerate(found) if by_ms > SLACK_MS + 1000]
    text = "no shard has recorded a later time than Redis tells"
    if ahead:
        text = f"recorded up to {max(found) / 1000:,.0f} s ahead of now: {_numbers(ahead)}"
    mend = 'set the clocks right; if they are: `holdfast clock reset --all --reason "…"`'
    sheet.expect("recorded time", not ahead, text, mend)


def _numbers(rows: list[Any]) -> str:
    """Numbers of shards, the first of them."""
    numbers = ", ".join(str(row["id"]) for row in rows[:8])
    return numbers if len(rows) <= 8 else f"{numbers} and {len(rows) - 8} more"


# ── what must fit into Redis ─────────────────────────────────────────────────────────────────────


async def _memory(shards: Shards, conn: Connection, config: Config) -> list[Check]:
    """The two things that an operator's figures decide: the backlog's room, the window's cost."""
    return [*await _room(shards), *await _records(shards, conn, config)]


async def _room(shards: Shards) -> list[Check]:
    """Whether what may still be finished when new spending ends has room above that limit.

    New spending ends at 70 % of maxmemory at the latest. From there on a shard takes at most B2
    entries more before it is closed for the backlog, whatever the load: where they fit, a slow
    worker or Postgres never makes Redis refuse a commit for want of memory.
    """
    sheet = Sheet("redis memory")
    homes = [shards.node_of(number) for number in range(shards.count)]
    for node in dict.fromkeys(homes):
        most = int((await read_info(node)).get("maxmemory", "0"))
        if not most:
            continue  # said of the node itself
        wanted = homes.count(node) * UNSETTLED_MAX * _ENTRY_BYTES
        room = (1 - FULL) * most
        sheet.expect(
            "room for the backlog",
            wanted <= room,
            f"{homes.count(node)} shards x {UNSETTLED_MAX:,} entries x {_ENTRY_BYTES} B ="
            f" {wanted / 2**20:,.0f} MiB, {room / 2**20:,.0f} MiB are kept for them",
            f"maxmemory {wanted / (1 - FULL) / 2**20:,.0f} MiB on {node.address}; with less, a full"
            " Redis may refuse commits (503 redis) until its backlog has been settled",
            "warn",
        )
    return sheet.checks


async def _records(shards: Shards, conn: Connection, config: Config) -> list[Check]:
    """Records a day, of so many bytes, kept so long: what the window takes of Redis's memory."""
    sheet = Sheet("redis memory")
    rows = await conn.fetch(sql("doctor_recent"), _SAMPLE_ENTRIES, _SAMPLE_KEYS)
    a_day = sum(row["entries"] * row["share"] for row in rows)
    sizes = await asyncio.gather(
        *(
            _size(shards, account, key)
            for row in rows
            for account, key in zip(row["accounts"] or (), row["keys"] or (), strict=True)
        )
    )
    sizes = [size for size in sizes if size]
    days = config.key_window_s / 86_400
    if not sizes:
        sheet.add("idempotency window", "ok", f"{days:g} d; no record in Redis to measure")
        return sheet.checks
    each = sum(sizes) / len(sizes)
    cost = a_day * days * each
    limits = [int((await read_info(node)).get("maxmemory", "0")) for node in shards.wire.nodes()]
    most = 0 if 0 in limits else sum(limits)
    share = f", {cost / most:.0%} of maxmemory" if most else ""
    sheet.expect(
        "idempotency window",
        not most or cost / most <= _WINDOW_SHARE,
        f"{a_day:,.0f} records a day x {days:g} d x {each:,.0f} B = {cost / 2**20:,.1f} MiB{share}",
        "lower HOLDFAST_KEY_WINDOW_S, or raise maxmemory",
        "warn",
    )
    return sheet.checks


async def _size(shards: Shards, account: str, key: str) -> int:
    keys = shards.keys[shards.number_of(account)]
    try:
        size = await shards.wire.call(keys.slot, "MEMORY", "USAGE", keys.record(account, key))
    except ServerError:
        return 0  # an ACL denies it
    return int(size or 0)
