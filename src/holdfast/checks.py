"""What doctor looks at in the stores themselves: Redis nodes, Postgres, and their clocks.

A check is `ok`; `warn`, a risk that an operator should know of; `fail`, money or service is not
safe as it is; or `unknown`, it could not be looked at.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from holdfast.config import Config
from holdfast.queries import sql
from holdfast.wire import Node, ServerError, Wire, WireError
from settlement import schema
from settlement.clocks import SLACK_MS, Span, skew_ms
from settlement.lease import FULL
from settlement.queries import Connection
from settlement.redis_settings import NodeReport, inspect, read_info

Level = Literal["ok", "warn", "fail", "unknown"]

_OLDEST_POSTGRES: Final = 140_000
# Half of what closes: a clock that drifts is mended before it closes anything.
_CLOCK_WARN_MS: Final = SLACK_MS / 2
# What CONFIG tells of a node, in the order in which it is shown.
_SETTINGS: Final = (
    *("maxmemory-policy", "maxmemory", "appendonly", "appendfsync"),
    *("no-appendfsync-on-rewrite", "min-replicas-to-write"),
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    about: str
    name: str
    level: Level
    found: str
    mend: str = ""


class Sheet:
    """The checks about one thing, in the order in which they were made."""

    def __init__(self, about: str) -> None:
        self.about = about
        self.checks: list[Check] = []

    def add(self, name: str, level: Level, found: str, mend: str = "") -> None:
        self.checks.append(Check(self.about, name, level, found, mend if level != "ok" else ""))

    def expect(self, name: str, good: bool, found: str, mend: str, bad: Level = "fail") -> None:
        """`ok` if it is good, else `bad`."""
        self.add(name, "ok" if good else bad, found, mend)


# ── Redis ────────────────────────────────────────────────────────────────────────────────────────


async def redis_node(node: Node, config: Config) -> list[Check]:
    """One node: what vetting looks at, its memory, and what it can promise."""
    sheet = Sheet(f"redis {node.address}")
    try:
        report = await inspect(node, config.durability, config.redis_vouched)
        info = await read_info(node)
        settings = await _settings(node)
    except WireError as error:
        sheet.add("reachable", "unknown", str(error), "start it, or mend HOLDFAST_REDIS_URL")
        return sheet.checks
    server = "Valkey" if "valkey_version" in info else "Redis"
    told = {
        "version": f"{server} {report.version}",
        "role": info.get("role", "?"),
        **settings,
        "aof_last_write_status": info.get("aof_last_write_status", "?"),
    }
    if settings.get("maxmemory") not in (None, "0"):
        told["maxmemory"] = _memory(info)
    if info.get("cluster_enabled") == "1":
        told["cluster_state"] = "ok"
    if info.get("connected_slaves", "0") != "0":
        told["replicas"] = info["connected_slaves"]
    else:
        told.pop("min-replicas-to-write", None)
        told["replicas"] = "none: what is not settled is lost with this node"
    _add_report(sheet, report, told)
    _add_memory(sheet, info)
    sheet.expect(
        "durability",
        config.durability != "local" or report.promise == "local",
        f"promises `{report.promise}`, `{config.durability}` is configured",
        "mend what is said above, or set HOLDFAST_DURABILITY=memory",
    )
    return sheet.checks


def _add_report(sheet: Sheet, report: NodeReport, told: Mapping[str, str]) -> None:
    """A line a setting: what vetting objects to in its words, the others as they are."""
    wrong = {finding.setting: finding for finding in report.findings}
    for name, text in told.items():
        finding = wrong.pop(name, None)
        if finding is None:
            sheet.add(name, "ok", text)
        else:
            level: Level = "fail" if finding.refuses else "warn"
            sheet.add(name, level, f"{text}: {finding.problem}", finding.mend)
    for finding in wrong.values():
        sheet.add(
            finding.setting, "fail" if finding.refuses else "warn", finding.problem, finding.mend
        )


async def _settings(node: Node) -> dict[str, str]:
    """The settings of a node in the order of the table; none where CONFIG is forbidden."""
    found: dict[str, str] = {}
    for name in _SETTINGS:
        try:
            reply = list(await node.call("CONFIG", "GET", name))
        except ServerError:
            return {}
        if len(reply) == 2:
            found[name] = reply[1].decode()
    return found


def _memory(info: Mapping[str, str]) -> str:
    used, most = int(info.get("used_memory", "0")), int(info["maxmemory"])
    return f"{used / most:.0%} of {most / 2**20:,.0f} MiB in use"


def _add_memory(sheet: Sheet, info: Mapping[str, str]) -> None:
    most = int(info.get("maxmemory", "0"))
    if most:
        used = int(info.get("used_memory", "0")) / most
        level: Level = "fail" if used > FULL else "warn" if used > 0.8 * FULL else "ok"
        mend = "raise maxmemory, or lower HOLDFAST_EVICT_ABOVE_MB and HOLDFAST_KEY_WINDOW_S"
        sheet.add("memory", level, f"{used:.0%} used; above {FULL:.0%} nothing new begins", mend)


# ── Postgres and clocks ──────────────────────────────────────────────────────────────────────────


async def database(conn: Connection, config: Config) -> list[Check]:
    """What Postgres keeps of what it committed, and whether its schema fits. Raises as asyncpg."""
    sheet = Sheet("postgres")
    row = await conn.fetchrow(sql("doctor_postgres"))
    sheet.expect(
        "version",
        row["version_number"] >= _OLDEST_POSTGRES,
        row["version"],
        "run PostgreSQL 14 or newer",
    )
    for name in ("fsync", "full_page_writes"):
        mend = (
            f"ALTER SYSTEM SET {name} = on, and reload: a crash can lose or tear what it committed"
        )
        sheet.expect(name, row[name] == "on", row[name], mend)
    commit, standbys = row["synchronous_commit"], row["synchronous_standby_names"]
    sheet.expect(
        "synchronous_commit",
        commit != "off",
        commit,
        "ALTER SYSTEM SET synchronous_commit = on: `settled` would promise what a crash takes back",
    )
    if standbys and commit == "local":
        sheet.add(
            "synchronous_standby_names",
            "warn",
            f"{standbys}, but synchronous_commit is local: commits do not wait for them",
            "ALTER SYSTEM SET synchronous_commit = on",
        )
    else:
        said = f"{standbys}: `settled` survives the loss of this server"
        alone = "none: `settled` survives a crash of this server, not the loss of its disk"
        sheet.add("synchronous_standby_names", "ok", said if standbys else alone)
    writable = not row["in_recovery"] and row["read_only"] == "off"
    sheet.expect(
        "writable",
        writable,
        "yes" if writable else "no: a standby, or read-only",
        "name the primary in HOLDFAST_DATABASE_URL",
    )
    try:
        await schema.check(conn, shards=config.shards, prefix=config.prefix)
        sheet.add("schema", "ok", f"{schema.migrations()[-1]}")
        sheet.add("shards", "ok", f"{config.shards} under `{config.prefix}`, as it was created")
        await _add_role(sheet, conn)
    except schema.SchemaError as error:
        sheet.add("schema", "fail", str(error), "do what it says; nothing starts before that")
    return sheet.checks


async def _add_role(sheet: Sheet, conn: Connection) -> None:
    """Who the service is to Postgres: better nobody who could change the audit."""
    row = await conn.fetchrow(sql("doctor_role"))
    found = f"{row['role']}, which adds to the audit and cannot change it"
    if row["superuser"]:
        found = f"{row['role']}, a superuser: it can change the audit"
    elif row["owner"]:
        found = f"{row['role']}, which owns the audit and can change it"
    sheet.expect(
        "role",
        not (row["superuser"] or row["owner"]),
        found,
        "run serve and settle as another role: `holdfast migrate --app-role NAME`",
        "warn",
    )


async def clocks(wire: Wire, conn: Connection) -> list[Check]:
    """Whether Redis, Postgres and this machine agree, as far as answers tell (clocks.py)."""
    sheet = Sheet("clocks")
    now = time.monotonic
    began = now()
    postgres_ms: int = await conn.fetchval(sql("doctor_clock"))
    postgres = Span(began, now())
    for node in wire.nodes():
        began = now()
        seconds, micros = await node.call("TIME")
        redis_ms, span = int(seconds) * 1000 + int(micros) // 1000, Span(began, now())
        skew = skew_ms(redis_ms, span, postgres_ms, postgres)
        _add_skew(sheet, f"redis {node.address}", skew, "Postgres", "fail")
    own_ms, own = int(time.time() * 1000), Span(now(), now())
    _add_skew(
        sheet, "this machine", skew_ms(own_ms, own, postgres_ms, postgres), "Postgres", "warn"
    )
    return sheet.checks


def _add_skew(sheet: Sheet, name: str, skew: float, other: str, bad: Level) -> None:
    where = "ahead of" if skew > 0 else "behind"
    found = f"{abs(skew):,.0f} ms {where} {other}" if abs(skew) >= 1 else f"agrees with {other}"
    level: Level = bad if abs(skew) > SLACK_MS else "warn" if abs(skew) > _CLOCK_WARN_MS else "ok"
    sheet.add(name, level, found, f"run NTP on both; {SLACK_MS} ms apart, Redis is closed")
