"""The audit: every change by an admin is a row, once, with who asked and what was there before."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from holdfast.audit_list import audit_page
from holdfast.embedded import Postgres, Valkey
from settlement import incidents, quarantine
from settlement.journal import settle
from tests.api import logged_in, post, serving
from tests.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="module")
module_fixture: Callable[..., Any] = pytest_asyncio.fixture(scope="module", loop_scope="module")

_accounts = count(1)


@module_fixture
async def stack(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    async with Stack(valkey_server.url, postgres_server.url) as stack:
        yield stack


@module_fixture
async def url(stack: Stack) -> AsyncIterator[str]:
    """The API, which believes a proxy on this machine."""
    async with serving(stack, forwarded_allow_ips="127.0.0.1") as url:
        yield url


@module_fixture
async def login(stack: Stack, url: str) -> AsyncIterator[tuple[str, httpx2.AsyncClient]]:
    async with logged_in(stack, url) as made:
        made[1].headers["X-Request-Id"] = "r-audit"
        yield made


@pytest.fixture
def root(login: tuple[str, httpx2.AsyncClient]) -> httpx2.AsyncClient:
    return login[1]


@pytest.fixture
def key_id(login: tuple[str, httpx2.AsyncClient]) -> str:
    """The id of the API key that `root` uses."""
    return login[0]


@pytest.fixture
def account() -> str:
    return f"audited:{next(_accounts)}"


async def rows(stack: Stack, **where: Any) -> list[dict[str, Any]]:
    """Rows of the audit, oldest first."""
    found = await stack.rows("audit", **where)
    for row in found:
        row["before"] = orjson.loads(row["before"] or "null")
        row["after"] = orjson.loads(row["after"] or "null")
    return found


# ── what Postgres itself is changed by ───────────────────────────────────────────────────────────


async def test_an_api_key_is_made_and_revoked_once(
    stack: Stack, root: httpx2.AsyncClient, key_id: str
) -> None:
    made = (await root.post("/v1/admin/keys", json={"name": "k", "scopes": ["read"]})).json()
    for _ in range(2):  # the second changes nothing
        await root.delete(f"/v1/admin/keys/{made['id']}")
    first, second = await rows(stack, subject=f"api_key:{made['id']}")
    assert (first["action"], second["action"]) == ("api_key.create", "api_key.revoke")
    assert first["after"] == {"name": "k", "scopes": ["read"], "accounts": None}
    assert made["token"] not in str(first)
    for row in (first, second):
        assert (row["actor"], row["key"]) == (f"key:{key_id}", key_id)
        assert (row["address"], row["request_id"]) == ("127.0.0.1", "r-audit")


async def test_nothing_is_written_of_a_change_that_was_not_made(
    stack: Stack, root: httpx2.AsyncClient
) -> None:
    before = await rows(stack)
    assert (await root.delete("/v1/admin/keys/nosuchkey000")).status_code == 404
    assert await rows(stack) == before


async def test_an_incident_that_is_closed_by_hand_or_by_itself(stack: Stack) -> None:
    async with stack.pool.acquire() as conn:
        number = await incidents.record(conn, "stopped", "a test")
        assert await incidents.close(conn, number, "cli:alice")
        assert not await incidents.close(conn, number, "cli:bob")
        other = await incidents.begin(conn, "clock", "a clock", subject="redis x")
        await incidents.end(conn, "clock", subject="redis x")
        await incidents.end(conn, "clock", subject="redis x")
    [row] = await rows(stack, subject=f"incident:{number}")
    assert (row["actor"], row["before"]["kind"]) == ("cli:alice", "stopped")
    [row] = await rows(stack, subject=f"incident:{other}")
    assert (row["actor"], row["action"]) == ("worker", "incident.close")


# ── what Redis decides ───────────────────────────────────────────────────────────────────────────


async def test_a_change_of_settings_says_what_they_were(
    stack: Stack, root: httpx2.AsyncClient, account: str, key_id: str
) -> None:
    """Given changes that settle together and apart, I expect each to follow from the last."""
    path = f"/v1/accounts/{account}"
    await root.put(path, json={"daily_limit": 5, "metadata": {"a": 1}})
    await root.put(path, json={"daily_limit": 7, "plan": "pro"})
    assert await rows(stack, account=account) == []  # the entry is not settled yet
    await stack.settle()
    await root.put(path, json={"daily_limit": None, "metadata": None})
    await root.put(path, json={"status": "frozen", "reason": "looks stolen"})
    await root.put(path, json={"status": "active"})
    await stack.settle()
    found = await rows(stack, account=account)
    assert [(row["action"], row["before"]) for row in found] == [
        ("account.open", None),
        ("account.settings", {"daily_limit": 5, "plan": None}),
        ("account.settings", {"daily_limit": 7, "metadata": {"a": 1}}),
        ("account.freeze", {"status": "active"}),
        ("account.thaw", {"status": "frozen"}),
    ]
    assert found[1]["after"] == {"daily_limit": 7, "plan": "pro", "version": 2}
    assert found[3]["after"] == {"status": "frozen", "reason": "looks stolen", "version": 4}
    for row in found:
        assert (row["actor"], row["key"]) == (f"key:{key_id}", key_id)
        assert (row["address"], row["request_id"]) == ("127.0.0.1", "r-audit")
        assert row["subject"] == f"account:{account}"


async def test_limits_of_a_member_say_what_they_were(
    stack: Stack, root: httpx2.AsyncClient, account: str
) -> None:
    await root.put(f"/v1/accounts/{account}", json={})
    await root.put(f"/v1/accounts/{account}/members/ann", json={"max_hold": 5})
    await stack.settle()
    await root.put(f"/v1/accounts/{account}/members/ann", json={"max_hold": 6})
    await stack.settle()
    first, second = await rows(stack, subject=f"member:{account}/ann")
    assert first["before"] == {"daily_limit": None, "monthly_limit": None, "max_hold": None}
    assert (second["before"]["max_hold"], second["after"]["max_hold"]) == (5, 6)
    assert second["action"] == "member.settings"


async def test_credits_that_are_given_say_where_the_balance_was(
    stack: Stack, root: httpx2.AsyncClient, account: str
) -> None:
    path = f"/v1/accounts/{account}"
    await root.put(path, json={})
    for _ in range(2):  # a replay has no entry, and no row
        await post(root, f"{path}/grants", "g1", amount=100)
    await post(root, f"{path}/charges", "c1", amount=30)
    await post(root, f"{path}/refunds", "r1", of="c1", amount=10, reason="it failed")
    batch = {"op": "grant", "account": account, "key": "g2", "body": {"amount": 5}}
    assert (await root.post("/v1/batch", json={"operations": [batch]})).status_code == 200
    await stack.settle()
    _, first, refund, last = await rows(stack, account=account)
    assert first["before"] == {"available": 0, "held": 0}
    assert first["after"] == {
        **{"available": 100, "held": 0, "amount": 100, "key": "g1", "version": 2}
    }
    assert refund["action"] == "account.refund"
    assert refund["before"] == {"available": 70, "held": 0}
    assert (refund["after"]["of"], refund["after"]["reason"]) == ("c1", "it failed")
    assert (last["after"]["key"], last["address"]) == ("g2", "127.0.0.1")
    [entry] = await stack.rows("journal", account=account, key="g2")
    assert last["at"] == entry["at"]


async def test_the_address_is_the_callers_behind_a_proxy(
    stack: Stack, root: httpx2.AsyncClient, account: str
) -> None:
    headers = {"X-Forwarded-For": "203.0.113.9"}
    await root.put(f"/v1/accounts/{account}", json={}, headers=headers)
    await stack.settle()
    [row] = await rows(stack, account=account)
    assert row["address"] == "203.0.113.9"


async def test_a_batch_of_work_costs_no_statement(stack: Stack, account: str) -> None:
    await stack.open(account, grant=100)
    await stack.settle()
    for key in ("h1", "h2"):
        await stack.reserve(account, key, 10)
    await stack.commit(account, "h1", 4)
    await stack.release(account, "h2")
    await stack.charge(account, "c1", 3)
    said: list[str] = []
    async with stack.pool.acquire() as conn:
        listener = lambda record: said.append(record.query)  # noqa: E731
        conn.add_query_logger(listener)
        for number in range(stack.config.shards):
            batch = await stack.batch(number)
            if batch.entries:
                await settle(conn, [batch])
        conn.remove_query_logger(listener)
    await stack.state.refresh(force=True)
    assert any("INSERT INTO record" in query for query in said)
    assert [query for query in said if "audit" in query] == []


async def test_what_no_audit_can_hold_is_quarantined_and_stops_nobody(
    stack: Stack, account: str
) -> None:
    """Given an entry whose setting is beyond 64 bits, I expect it alone to be set aside."""
    await stack.open(account)
    await stack.settle()
    number = stack.shards.number_of(account)
    acct = await stack.acct(account)
    meta = await stack.meta(number)
    entry = {
        **{"type": "settings", "account": account, "seq": str(int(meta["seq"]) + 1)},
        **{"version": str(int(acct["version"]) + 1), "at": meta["clock_ms"], "available": "0"},
        **{"held": "0", "delta": [], "settings": ["daily_limit", str(10**20)], "context": {}},
    }
    await stack.forge(number, orjson.dumps(entry))

    await stack.settle()

    (kept,) = await stack.rows("quarantine", account=account)
    assert kept["origin"] == "rejected" and "64-bit" in kept["error"], kept["error"]


async def test_what_was_in_quarantine_is_audited_when_it_is_applied(
    stack: Stack, account: str
) -> None:
    """Given an entry that no script wrote and a grant behind it, I expect no row before the end."""
    await stack.open(account)
    await stack.settle()
    number = stack.shards.number_of(account)
    await stack.forge(number, b'{"type":"grant","account":"%s"}' % account.encode())
    await stack.settle()
    acct = stack.shards.keys[number].acct(account)
    version = int((await stack.acct(account))["version"])
    await stack.command("HSET", acct, "version", version + 1)  # as the forged one would have
    await stack.grant(account, "g1", 10)
    await stack.settle()
    assert [row["action"] for row in await rows(stack, account=account)] == ["account.open"]
    first, second = await stack.rows("quarantine", account=account)
    assert await quarantine.void(stack.pool, [first["id"]], "forged", "cli:alice") == 2
    _, grant, voided, applied = await rows(stack, account=account)
    assert (grant["action"], grant["actor"]) == ("account.grant", "test")
    assert (voided["action"], applied["action"]) == ("quarantine.void", "quarantine.apply")
    assert (voided["actor"], voided["after"]["reason"]) == ("cli:alice", "forged")
    assert voided["subject"] == f"quarantine:{first['id']}"
    assert applied["before"] == {"state": "open", "entry": second["entry"]}


# ── the list ─────────────────────────────────────────────────────────────────────────────────────


async def test_it_is_listed_newest_first_in_pages(
    stack: Stack, root: httpx2.AsyncClient, account: str, key_id: str
) -> None:
    await root.put(f"/v1/accounts/{account}", json={})
    for limit in range(4):
        await root.put(f"/v1/accounts/{account}", json={"daily_limit": limit})
    await stack.settle()
    seen: list[Any] = []
    after: dict[str, Any] = {}
    while True:
        query = {"account": account, "limit": 2, **after}
        page = (await root.get("/v1/admin/audit", params=query)).json()
        seen += page["data"]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert [row["after"]["version"] for row in seen] == [5, 4, 3, 2, 1]
    assert seen[0]["at"].endswith("Z")
    by_actor = {"account": account, "actor": f"key:{key_id}", "since": seen[1]["at"]}
    found = (await root.get("/v1/admin/audit", params=by_actor)).json()["data"]
    assert seen[0] in found
    nobody = (await root.get("/v1/admin/audit", params={"actor": "nobody"})).json()
    assert nobody == {"data": [], "next": None}
    page_of_all = await audit_page(stack.pool, limit=1)  # type: ignore[arg-type]
    assert len(page_of_all.data) == 1


@pytest.mark.parametrize("query", [{"after": "x"}, {"after": "1~2~3"}, {"since": "yesterday"}])
async def test_a_question_that_is_none_is_refused(root: httpx2.AsyncClient, query: Any) -> None:
    assert (await root.get("/v1/admin/audit", params=query)).status_code == 422


async def test_only_an_admin_of_all_accounts_reads_it(stack: Stack, url: str) -> None:
    for scopes, accounts in ((["read", "credit"], None), (["admin"], "audited:*")):
        async with logged_in(stack, url, *scopes, accounts=accounts) as (_, client):
            assert (await client.get("/v1/admin/audit")).status_code == 403
