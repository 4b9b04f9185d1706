"""The role that the service runs as: all of its work, and no way to change the audit."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx2
import pytest

from holdfast import audit
from holdfast.embedded import Postgres, Valkey
from settlement import roles
from tests.site import Site, until

FORBIDDEN = [
    "UPDATE audit SET actor = 'nobody'",
    "UPDATE audit SET actor = 'nobody' WHERE false",
    "DELETE FROM audit",
    "TRUNCATE audit",
    "INSERT INTO audit (id, actor, action, subject) OVERRIDING SYSTEM VALUE"
    " VALUES (1, 'a', 'b', 'c:d') ON CONFLICT (id) DO UPDATE SET actor = 'nobody'",
    "ALTER TABLE audit DISABLE TRIGGER ALL",
    "ALTER TABLE audit ADD COLUMN more text",
    "DROP TABLE audit",
    "DROP TRIGGER audit_stays ON audit",
    "CREATE OR REPLACE FUNCTION audit_stays() RETURNS trigger LANGUAGE plpgsql"
    " AS 'BEGIN RETURN NULL; END'",
    "ALTER SEQUENCE audit_id_seq RESTART",
    "SELECT setval('audit_id_seq', 1)",
    "SET session_replication_role = 'replica'",
    "CREATE TABLE mine (id integer)",
    "UPDATE journal SET amount = 0",
    "DELETE FROM journal",
    "TRUNCATE journal",
    "DELETE FROM account",
    "UPDATE opening SET version = version + 1",
    "DELETE FROM shard_opening",
    "DELETE FROM archive",
    "DELETE FROM trial",
    "UPDATE migration SET checksum = ''",
]


@pytest.fixture(scope="module")
def site(
    valkey_server: Valkey, postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A service whose worker and API run as a role that owns nothing."""
    made = Site(valkey_server.url, postgres_server.url, tmp_path_factory.mktemp("role"))
    role, word = f"app_{made.name}", secrets.token_hex(8)
    made.create()
    made.administer(f"CREATE ROLE {role} LOGIN PASSWORD '{word}'")
    let_in(made, role)
    assert made.ok("migrate", "--app-role", role)["app_role"] == role
    assert made.ok("migrate", "--app-role", role)["applied"] == []  # and can be repeated
    parts = urlsplit(made.database_url)
    place = f"{role}:{word}@{parts.netloc.rpartition('@')[2]}"
    made.env["HOLDFAST_DATABASE_URL"] = urlunsplit(parts._replace(netloc=place))
    made.env["HOLDFAST_URL"] = made.url
    made.env["HOLDFAST_PROXIES"] = "127.0.0.1"
    until(lambda: admitted(made))
    made.env["HOLDFAST_API_KEY"] = made.ok("key", "create", "--name", "t", "--scopes", "all")["key"]
    with made.running("settle"), made.running("serve", "--port", str(made.port)) as api:
        made.ready(api)
        yield made
    made.drop()
    made.administer(f"DROP ROLE {role}")


def let_in(site: Site, role: str) -> None:
    """Let the role connect: the server of the tests lets nobody in but its own."""
    [row] = ask(site, "SHOW hba_file", owner=True)
    with Path(row[0]).open("a", encoding="utf-8") as rules:
        rules.write(f"host all {role} 127.0.0.1/32 scram-sha-256\n")
    ask(site, "SELECT pg_reload_conf()", owner=True)


def admitted(site: Site) -> bool:
    """Whether the server has read that the role may connect; nobody tells."""
    try:
        ask(site, "SELECT 1")
    except asyncpg.InvalidAuthorizationSpecificationError:
        return False
    return True


def ask(site: Site, statement: str, *, owner: bool = False) -> list[Any]:
    """Rows of a statement, as the role of the service or as who owns the tables."""

    async def work() -> list[Any]:
        url = site.database_url if owner else site.env["HOLDFAST_DATABASE_URL"]
        conn = await asyncpg.connect(url)
        try:
            return list(await conn.fetch(statement))
        finally:
            await conn.close()

    return asyncio.run(work())


def test_the_service_does_all_of_its_work(site: Site) -> None:
    site.ok("account", "open", "a1")
    site.ok("grant", "a1", "10cr", "--key", "g1")
    site.ok("hold", "reserve", "a1", "2cr", "--key", "h1")
    assert site.ok("hold", "commit", "a1", "h1", "1cr", "--durability", "settled")["durability"]
    until(lambda: [r for r in ask(site, "SELECT 1 FROM journal WHERE type = 'commit'")])
    assert site.ok("reconcile")["exit_code"] == 0
    made = {check["name"]: check for check in site.run("doctor", "--json").json["checks"]}
    assert (made["role"]["level"], made["schema"]["level"]) == ("ok", "ok")


def test_what_an_operator_does_is_in_the_audit(site: Site) -> None:
    """Given commands over HTTP and at the stores, I expect who, what, and why."""
    ok = site.ok
    ok("account", "open", "b1")
    ok("grant", "b1", "10cr", "--key", "g1")
    taken = ok("adjust", "b1", "-1.5cr", "--reason", "counted twice", "--key", "a1")
    assert (taken["amount"], taken["available"]) == (-1_500_000, 8_500_000)
    assert ok("account", "freeze", "b1", "--reason", "looks stolen")["status"] == "frozen"
    ok("account", "thaw", "b1")
    left = site.run("account", "close", "b1", "--yes")
    assert (left.code, "account_not_empty" in left.err) == (1, True)
    assert site.run("account", "close", "b1", "--yes", "--write-off").code == 64
    closed = ok("account", "close", "b1", "--yes", "--write-off", "--reason", "gone")
    assert (closed["status"], closed["available"]) == ("closed", 0)

    def listed() -> list[Any]:
        data: list[Any] = ok("audit", "--account", "b1")["data"]
        return data if len(data) == 8 else []

    rows = until(listed)
    assert [row["action"].removeprefix("account.") for row in reversed(rows)] == [
        *("open", "grant", "adjust", "freeze", "thaw", "freeze", "adjust", "close")
    ]
    assert rows[5]["after"]["reason"] == "counted twice"
    [key] = {row["key"] for row in rows}
    assert key in site.env["HOLDFAST_API_KEY"]
    [made] = ok("audit", "--limit", "1000", "--since", "2026-01-01T00:00:00Z")["data"][-1:]
    assert (made["action"], made["actor"].split(":")[0]) == ("role.grant", "cli")
    page = site.run("audit", "--account", "b1", "--limit", "2")
    assert "status: frozen → closed" in page.out
    assert "there is more: --after" in page.err
    cursor = page.err.split("--after ")[1].strip()
    assert "thaw" in site.run("audit", "--account", "b1", "--after", cursor, "--limit", "2").out


def test_a_proxy_that_is_named_tells_where_a_caller_is(site: Site) -> None:
    headers = {
        "Authorization": f"Bearer {site.env['HOLDFAST_API_KEY']}",
        "X-Forwarded-For": "203.0.113.9",
    }
    with httpx2.Client(base_url=site.url, headers=headers, trust_env=False) as client:
        assert client.put("/v1/accounts/p1", json={}).status_code == 201
    [row] = until(lambda: site.ok("audit", "--account", "p1")["data"])
    assert row["address"] == "203.0.113.9"


def test_what_is_owed_is_listed_and_collected(site: Site) -> None:
    ok = site.ok
    for name, shortfall in (("d1", "debt"), ("d2", "cap")):
        ok("account", "open", name)
        ok("grant", name, "1cr")
        ok("charge", name, "3cr", "--key", "c1", "--on-shortfall", shortfall)
    [debt] = until(lambda: ok("debt", "list")["data"])
    assert (debt["account"], debt["debt"]) == ("d1", 2_000_000)
    [unpaid] = until(lambda: ok("debt", "uncollected")["data"])
    assert (unpaid["account"], unpaid["of"], unpaid["uncollected"]) == ("d2", "c1", 2_000_000)
    assert "2.000000" in site.run("debt", "list").out
    assert "2.000000" in site.run("debt", "uncollected").out
    ok("grant", "d2", "5cr")
    assert ok("debt", "collect", "d2", "c1", "--amount", "0.5cr")["amount"] == 500_000
    until(lambda: [u for u in ok("debt", "uncollected")["data"] if u["collected"] == 500_000])
    assert "1.500000" in site.run("debt", "collect", "d2", "c1").out
    until(lambda: ok("debt", "uncollected")["data"] == [])
    assert ok("account", "show", "d2")["available"] == 3_000_000


def test_a_trial_is_started_and_overridden(site: Site) -> None:
    ok = site.ok
    ok("account", "open", "t1")
    assert ok("trial", "start", "t1", "2cr")["state"] == "active"
    until(lambda: ok("account", "show", "t1")["available"] == 2_000_000)
    ok("account", "set", "t1", "--metadata", '{"customer_id": "cus_1"}')
    until(lambda: ok("trial", "show", "t1")["signs"] == ["customer_id"])
    [row] = [r for r in ok("audit", "--account", "t1")["data"] if r["action"] == "trial.override"]
    assert (row["actor"], row["after"]["signs"]) == ("system", ["customer_id"])


def test_a_worker_makes_partitions_that_it_does_not_own(site: Site) -> None:
    assert ask(site, "SELECT journal_partition('2031-02-01') AS made")[0]["made"]
    ask(
        site,
        "INSERT INTO journal (shard, seq, at, account, version, type, available, held, chain,"
        " entry) VALUES (0, 9000, '2031-02-03', 'a', 1, 'open', 0, 0, '', '{}')",
    )
    assert len(ask(site, "SELECT 1 FROM journal_2031_02", owner=True)) == 1
    owners = ask(
        site, "SELECT DISTINCT relowner FROM pg_class WHERE relname LIKE 'journal%'", owner=True
    )
    assert len(owners) == 1
    ask(site, "DROP TABLE journal_2031_02", owner=True)


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_the_service_cannot_change_what_was_written(site: Site, statement: str) -> None:
    before = ask(site, "SELECT * FROM audit ORDER BY id")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        ask(site, statement)
    assert ask(site, "SELECT * FROM audit ORDER BY id")[: len(before)] == before


@pytest.mark.parametrize("statement", [*FORBIDDEN[:5], "SET session_replication_role = 'replica';"])
def test_not_even_the_owner_changes_a_row(site: Site, statement: str) -> None:
    """Given a superuser, also one who switches ordinary triggers off, I expect a refusal."""

    async def work() -> None:
        conn = await asyncpg.connect(site.database_url)
        try:
            if statement.startswith("SET"):
                await conn.execute(statement)
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
                await conn.execute("DELETE FROM audit" if statement[0:3] == "SET" else statement)
        finally:
            await conn.close()

    asyncio.run(work())


def test_a_role_that_could_change_it_is_refused(site: Site) -> None:
    owner = urlsplit(site.database_url).username or ""
    done = site.run("migrate", "--app-role", owner, HOLDFAST_DATABASE_URL=site.database_url)
    assert done.code == 78
    assert "superuser" in done.err

    async def work() -> None:
        conn = await asyncpg.connect(site.database_url)
        try:
            with pytest.raises(roles.RoleUnfit, match="there is no role nobody_at_all"):
                await roles.grant_to(conn, "nobody_at_all", "cli:test")
        finally:
            await conn.close()

    asyncio.run(work())


def test_a_row_takes_what_postgres_would_not(site: Site) -> None:
    """Given NUL and endless texts, I expect a row: no change may fail for its audit."""

    async def work() -> Any:
        conn = await asyncpg.connect(site.env["HOLDFAST_DATABASE_URL"])
        try:
            await audit.record(
                conn,
                actor="a\0" + "b" * 5000,
                action="test.row",
                subject="test:1",
                after={"reason": "x\0y", "amount": 2**60},
            )
            return await conn.fetchrow("SELECT * FROM audit WHERE action = 'test.row'")
        finally:
            await conn.close()

    row = asyncio.run(work())
    assert len(row["actor"]) == 512
    assert row["after"] == '{"amount": 1152921504606846976, "reason": "x\ufffdy"}'
