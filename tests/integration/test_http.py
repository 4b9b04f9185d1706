"""The API over a real socket and real stores: what the scenarios of the ledger do not look at."""

import json
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from holdfast import api_keys
from holdfast.embedded import Postgres, Valkey
from holdfast.http.problems import CODES
from tests.api import serving
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
    """The API on a free port, served by uvicorn as in production."""
    async with serving(stack) as url:
        yield url


Login = Callable[..., Any]


@module_fixture
async def login(stack: Stack, url: str) -> AsyncIterator[Login]:
    """Makes a client with a new API key."""
    clients: list[httpx2.AsyncClient] = []

    async def login(*scopes: str, accounts: str | None = None) -> httpx2.AsyncClient:
        _, token = await api_keys.create(stack.pool, "test", scopes, accounts)
        headers = {"Authorization": f"Bearer {token}"}
        clients.append(httpx2.AsyncClient(base_url=url, headers=headers, timeout=20))
        return clients[-1]

    yield login
    for client in clients:
        await client.aclose()


@module_fixture
async def root(login: Login) -> Any:
    return await login("read", "spend", "credit", "admin")


@pytest.fixture
def account() -> str:
    return f"acme:{next(_accounts)}"


async def open_account(root: Any, account: str, amount: int = 100) -> None:
    await root.put(f"/v1/accounts/{account}", json={})
    granted = await root.post(
        f"/v1/accounts/{account}/grants",
        json={"amount": amount},
        headers={"Idempotency-Key": "opening"},
    )
    assert granted.status_code == 201, granted.text


def refused(reply: Any, code: str) -> dict[str, Any]:
    """The problem document of a refusal, which must be one."""
    assert reply.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = reply.json()
    assert document["code"] == code, document
    assert reply.status_code == document["status"] == CODES[code].status
    assert document["request_id"] == reply.headers["x-request-id"]
    assert document["type"] == f"/problems/{code}"
    assert document["title"] and document["detail"]
    return document


# ── who may call ─────────────────────────────────────────────────────────────────────────────────


async def test_without_a_key_nothing_is_told(url: str, root: Any, account: str) -> None:
    await open_account(root, account)
    async with httpx2.AsyncClient(base_url=url) as client:
        for headers in ({}, {"Authorization": "Bearer hf_wrongwrong12_" + "x" * 43}):
            for path in (account, "nobody"):
                reply = await client.get(f"/v1/accounts/{path}", headers=headers)
                refused(reply, "unauthenticated")
                assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("read", {"get_account", "get_hold", "list_entries"}),
        ("spend", {"get_hold", "reserve", "batch"}),
        ("credit", {"grant", "batch"}),
        ("admin", {"put_account"}),
    ],
)
async def test_a_scope_allows_its_routes_alone(
    login: Login, root: Any, account: str, scope: str, allowed: set[str]
) -> None:
    await open_account(root, account)
    path = f"/v1/accounts/{account}"
    key = {"Idempotency-Key": "h-1"}
    await root.post(f"{path}/holds", json={"amount": 1}, headers=key)
    calls: dict[str, tuple[str, str, Any]] = {
        "get_account": ("GET", path, None),
        "get_hold": ("GET", f"{path}/holds/h-1", None),
        "list_entries": ("GET", f"{path}/entries", None),
        "reserve": ("POST", f"{path}/holds", {"amount": 1}),
        "grant": ("POST", f"{path}/grants", {"amount": 1}),
        "put_account": ("PUT", path, {}),
        "batch": ("POST", "/v1/batch", {"operations": [{"op": "release", "account": account}]}),
    }
    client = await login(scope)
    got = set()
    for name, (method, where, body) in calls.items():
        headers = {"Idempotency-Key": f"{scope}-{name}"}
        reply = await client.request(method, where, json=body, headers=headers)
        if reply.status_code < 300:
            got.add(name)
        else:
            refused(reply, "forbidden")
    assert got == allowed


async def test_other_accounts_do_not_exist_for_a_restricted_key(
    login: Login, root: Any, account: str
) -> None:
    await open_account(root, account)
    client = await login("read", "admin", accounts="other*")
    there = refused(await client.get(f"/v1/accounts/{account}"), "account_not_found")
    nowhere = refused(await client.get("/v1/accounts/other-nobody"), "account_not_found")
    assert there.keys() == nowhere.keys()
    assert there["title"] == nowhere["title"]
    assert there["detail"].replace(account, "x") == nowhere["detail"].replace("other-nobody", "x")
    refused(await client.put(f"/v1/accounts/{account}", json={}), "account_not_found")
    refused(await client.get("/v1/admin/keys"), "forbidden")


async def test_balances_in_refusals_are_rounded_for_those_who_may_not_read(
    login: Login, root: Any, account: str
) -> None:
    await open_account(root, account, 1_239_999)
    holds = f"/v1/accounts/{account}/holds"
    body, key = {"amount": 2_000_000}, {"Idempotency-Key": "h-1"}
    spender = await login("spend")
    told = refused(await spender.post(holds, json=body, headers=key), "insufficient_credits")
    assert told["available"] == 1_230_000
    assert "1239999" not in json.dumps(told)
    exact = refused(await root.post(holds, json=body, headers=key), "insufficient_credits")
    assert exact["available"] == 1_239_999


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────


async def test_keys_are_made_listed_and_revoked_over_http(url: str, root: Any) -> None:
    body = {"name": "app", "scopes": ["spend"], "accounts": "acme:*"}
    made = await root.post("/v1/admin/keys", json=body)
    assert made.status_code == 201
    token, key_id = made.json()["token"], made.json()["id"]
    listed = (await root.get("/v1/admin/keys?limit=1000")).json()["data"]
    [found] = [key for key in listed if key["id"] == key_id]
    assert found == {name: value for name, value in made.json().items() if name != "token"}
    assert token not in json.dumps(listed)

    revoked = await root.delete(f"/v1/admin/keys/{key_id}")
    assert revoked.json()["revoked_at"] is not None
    async with httpx2.AsyncClient(
        base_url=url, headers={"Authorization": f"Bearer {token}"}
    ) as client:
        refused(await client.get("/v1/accounts/acme:x/holds/h"), "unauthenticated")
    refused(await root.delete("/v1/admin/keys/nosuchkey"), "not_found")


# ── requests that are none ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/", "/nothing", "/v1/accounts/a/nothing", "/v1/accounts/a%2Fb"])
async def test_a_path_that_is_none_is_a_problem(root: Any, path: str) -> None:
    refused(await root.get(path), "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v1/accounts/a", "GET, HEAD, PUT"),
        ("PUT", "/v1/batch", "POST"),
        ("POST", "/livez", "GET, HEAD"),
        ("POST", "/docs/", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_none_is_a_problem(
    root: Any, method: str, path: str, allow: str
) -> None:
    reply = await root.request(method, path)
    refused(reply, "method_not_allowed")
    assert reply.headers["allow"] == allow


async def test_head_is_a_get_without_its_body(root: Any, account: str) -> None:
    await open_account(root, account)
    reply = await root.head(f"/v1/accounts/{account}")
    assert (reply.status_code, reply.content) == (200, b"")
    assert (await root.head("/v1/accounts/nobody")).status_code == 404


async def test_ids_outside_the_grammar_are_named(root: Any) -> None:
    for path, field in (
        ("/v1/accounts/a%20b", "account"),
        ("/v1/accounts/a/holds/%7Bh%7D", "hold"),
        ("/v1/accounts/a/members/" + "m" * 129, "member"),
    ):
        document = refused(await root.get(path), "invalid_request")
        assert [error["field"] for error in document["errors"]] == [field]


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_is_too_large_is_refused(root: Any, account: str, declared: bool) -> None:
    body = b'{"amount": 1, "description": "' + b"x" * 70_000 + b'"}'

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    reply = await root.post(
        f"/v1/accounts/{account}/holds",
        content=body if declared else parts(),
        headers={"Idempotency-Key": "h-1"},
    )
    refused(reply, "body_too_large")
    assert reply.headers["connection"] == "close"


async def test_keys_that_are_missing_or_none(root: Any, account: str) -> None:
    await open_account(root, account)
    path = f"/v1/accounts/{account}"
    for collection, body in (
        ("holds", {"amount": 1}),
        ("charges", {"amount": 1}),
        ("refunds", {"of": "h"}),
        ("grants", {"amount": 1}),
        ("holds/h/commit", {"final": False}),
        ("holds/h/extend", {"add_amount": 1}),
    ):
        where = f"{path}/{collection}"
        refused(await root.post(where, json=body), "idempotency_key_missing")
        reply = await root.post(where, json=body, headers={"Idempotency-Key": "a b"})
        refused(reply, "idempotency_key_invalid")


async def test_a_request_id_of_the_callers_comes_back(root: Any, account: str) -> None:
    reply = await root.get(f"/v1/accounts/{account}", headers={"X-Request-Id": "their-1"})
    assert refused(reply, "account_not_found")["request_id"] == "their-1"
    reply = await root.get("/nothing", headers={"X-Request-Id": "their-2"})
    assert refused(reply, "not_found")["request_id"] == "their-2"
    reply = await root.get("/livez", headers={"X-Request-Id": "not an id"})
    assert reply.headers["x-request-id"].startswith("req-")


async def test_a_shortage_is_not_to_be_repeated(root: Any, account: str) -> None:
    await open_account(root, account, 10)
    reply = await root.post(
        f"/v1/accounts/{account}/holds", json={"amount": 11}, headers={"Idempotency-Key": "h-1"}
    )
    assert refused(reply, "insufficient_credits")["retryable"] is False
    assert reply.headers["x-should-retry"] == "false"


# ── batches ──────────────────────────────────────────────────────────────────────────────────────


async def send_batch(client: Any, *operations: dict[str, Any]) -> list[dict[str, Any]]:
    reply = await client.post("/v1/batch", json={"operations": operations})
    assert reply.status_code == 200, reply.text
    data: list[dict[str, Any]] = reply.json()["data"]
    return data


async def test_a_batch_keeps_order_within_an_account(root: Any, account: str) -> None:
    other = f"{account}-other"
    for each in (account, other):
        await open_account(root, each, 100)
    results = await send_batch(
        root,
        {"op": "reserve", "account": account, "key": "h-1", "body": {"amount": 60}},
        {"op": "reserve", "account": account, "key": "h-2", "body": {"amount": 60}},
        {"op": "charge", "account": other, "key": "c-1", "body": {"amount": 5}},
        {"op": "extend", "account": account, "hold": "h-1", "body": {"ttl_seconds": 86_400}},
        {"op": "commit", "account": account, "hold": "h-1", "body": {"amount": 13}},
        {"op": "refund", "account": account, "key": "r-1", "body": {"of": "h-1", "amount": 3}},
        {"op": "grant", "account": other, "key": "g-1", "body": {"amount": 7}},
        {"op": "release", "account": account, "hold": "h-1"},
        {"op": "reserve", "account": account, "key": "h-1", "body": {"amount": 60}},
    )
    assert [each["status"] for each in results] == [201, 402, 201, 200, 200, 201, 201, 409, 200]
    assert [each["replayed"] for each in results] == [False] * 8 + [True]
    assert results[1]["body"]["code"] == "insufficient_credits"
    assert results[7]["body"]["code"] == "hold_committed"
    assert results[4]["body"]["available"] == 87
    final = (await root.get(f"/v1/accounts/{account}")).json()
    assert (final["available"], final["held"], final["spent"]) == (90, 0, 13)
    assert (await root.get(f"/v1/accounts/{other}")).json()["available"] == 102


async def test_an_operation_is_refused_as_it_would_be_alone(
    login: Login, root: Any, account: str
) -> None:
    await open_account(root, account)
    reserve = {"op": "reserve", "account": account, "key": "h-1", "body": {"amount": 1}}
    cases: list[tuple[dict[str, Any], str]] = [
        ({**reserve, "body": {"amount": 1.0}}, "invalid_request"),
        ({**reserve, "body": None}, "invalid_request"),
        ({**reserve, "account": "a b"}, "invalid_request"),
        ({**reserve, "account": ""}, "invalid_request"),
        ({**reserve, "hold": "h-1"}, "invalid_request"),
        ({**reserve, "key": None}, "idempotency_key_missing"),
        ({**reserve, "key": "a b"}, "idempotency_key_invalid"),
        ({**reserve, "account": "nobody"}, "account_not_found"),
        ({"op": "commit", "account": account}, "invalid_request"),
        ({"op": "commit", "account": account, "hold": "none"}, "hold_not_found"),
        ({"op": "commit", "account": account, "hold": ""}, "invalid_request"),
    ]
    results = await send_batch(root, *(operation for operation, _ in cases), reserve)
    assert [each["body"].get("code") for each in results] == [*(code for _, code in cases), None]
    for each in results[:-1]:
        assert each["status"] == each["body"]["status"] == CODES[each["body"]["code"]].status

    spender = await login("spend", accounts=account)
    grant = {"op": "grant", "account": account, "key": "g", "body": {"amount": 1}}
    results = await send_batch(spender, grant, {**reserve, "account": "else"}, reserve)
    assert [each["status"] for each in results] == [403, 404, 200]


async def test_a_thousand_operations_are_one_batch(root: Any, account: str) -> None:
    accounts = [f"{account}-{i}" for i in range(20)]
    for each in accounts:
        await open_account(root, each, 1_000)
    operations = [
        {"op": "reserve", "account": accounts[i % 20], "key": f"h-{i}", "body": {"amount": 20}}
        for i in range(1_000)
    ]
    results = await send_batch(root, *operations)
    assert [each["status"] for each in results] == [201] * 1_000
    assert [each["body"]["id"] for each in results] == [f"h-{i}" for i in range(1_000)]
    again = await send_batch(root, *operations)
    assert all(each["replayed"] and each["status"] == 200 for each in again)
    assert [each["body"] for each in again] == [each["body"] for each in results]
    reply = await root.post("/v1/batch", json={"operations": [operations[0]] * 1_001})
    refused(reply, "invalid_request")


# ── lists ────────────────────────────────────────────────────────────────────────────────────────


async def test_lists_show_what_has_settled(stack: Stack, root: Any, account: str) -> None:
    await open_account(root, account, 100)
    path = f"/v1/accounts/{account}"
    body = {"amount": 40, "member": "ann", "metadata": {"chat": 7}}
    headers = {"Idempotency-Key": "h-1", "X-Request-Id": "their-1"}
    await root.post(f"{path}/holds", json=body, headers=headers)
    empty = await root.get(f"{path}/entries")
    assert empty.json() == {"data": [], "next": None}  # it exists, and nothing has settled

    await stack.settle()

    first = (await root.get(f"{path}/entries?limit=2")).json()
    rest = (await root.get(f"{path}/entries?limit=2&after={first['next']}")).json()
    assert [entry["type"] for entry in first["data"]] == ["open", "grant"]
    [reserve] = rest["data"]
    assert (reserve["type"], reserve["key"], reserve["version"]) == ("reserve", "h-1", 3)
    assert (reserve["request_id"], reserve["metadata"]) == ("their-1", {"chat": 7})
    assert reserve["actor"].startswith("key:")
    assert rest["next"] is None

    [hold] = (await root.get(f"{path}/holds?state=held")).json()["data"]
    alone = (await root.get(f"{path}/holds/h-1")).json()
    assert {**hold, "durability": None} == {**alone, "durability": None}
    assert (await root.get(f"{path}/holds?state=released")).json()["data"] == []

    [listed] = (await root.get(f"/v1/accounts?prefix={account}")).json()["data"]
    alone = (await root.get(path)).json()
    assert {**listed, "durability": None} == {**alone, "durability": None}

    [member] = (await root.get(f"{path}/usage?group_by=member")).json()["data"]
    assert (member["member"], member["used"], member["spent"]) == ("ann", 40, 0)


async def test_usage_has_a_range_of_days_and_filters(stack: Stack, root: Any, account: str) -> None:
    await open_account(root, account, 1_000)
    path = f"/v1/accounts/{account}"
    for key, member in (("c-1", "ann"), ("c-2", "bob")):
        body = {"amount": 70, "member": member}
        await root.post(f"{path}/charges", json=body, headers={"Idempotency-Key": key})
    fresh = (await root.get(f"{path}/forecast")).json()  # nothing has settled
    await stack.settle()

    [line] = (await root.get(f"{path}/usage?group_by=day,model&member=bob")).json()["data"]
    today = line.pop("day")
    assert line == {"model": None, "used": 70, "spent": 70, "calls": 1}
    both = (await root.get(f"{path}/usage?group_by=member&from={today}&to={today}")).json()["data"]
    assert [each["member"] for each in both] == ["ann", "bob"]
    assert (await root.get(f"{path}/usage?to=2020-01-01")).json() == {"data": [], "next": None}

    now = (await root.get(f"{path}/forecast")).json()
    assert (fresh["available"], fresh["burn_per_day"], fresh["runs_out_at"]) == (860, 0, None)
    assert (now["available"], now["burn_per_day"], now["basis_days"]) == (860, 140, 1.0)
    assert now["balance_level"] is None
    assert now["runs_out_at"].endswith("Z")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=2024-01-01&to=2025-01-01", "from"),  # 367 days
        ("from=2026-01-02&to=2026-01-01", "from"),
        ("from=2026-02-30", "from"),
        ("to=1.1.2026", "to"),
        ("group_by=hour", "group_by"),
        ("group_by=day,day", "group_by"),
        ("group_by=", "group_by"),
        ("member=a%20b", "member"),
        ("model=%00", "model"),
        ("after=x", "after"),
    ],
)
async def test_usage_refuses_what_it_cannot_list(
    root: Any, account: str, query: str, field: str
) -> None:
    reply = await root.get(f"/v1/accounts/{account}/usage?{query}")
    assert [each["field"] for each in refused(reply, "invalid_request")["errors"]] == [field]


async def test_a_leap_year_is_the_longest_range(root: Any, account: str) -> None:
    await open_account(root, account)
    reply = await root.get(f"/v1/accounts/{account}/usage?from=2024-01-01&to=2024-12-31")
    assert reply.json() == {"data": [], "next": None}


async def test_a_list_of_an_unknown_account_is_not_found(root: Any) -> None:
    for name in ("entries", "holds", "usage", "forecast"):
        refused(await root.get(f"/v1/accounts/nobody/{name}"), "account_not_found")


async def test_a_restricted_key_lists_its_own_accounts(
    stack: Stack, login: Login, root: Any, account: str
) -> None:
    mine, theirs = f"{account}:mine", f"{account}:theirs"
    for each in (mine, theirs, f"{mine}2"):
        await root.put(f"/v1/accounts/{each}", json={})
    await stack.settle()

    async def listed(accounts: str, prefix: str) -> list[str]:
        client = await login("read", accounts=accounts)
        data = (await client.get(f"/v1/accounts?prefix={prefix}")).json()["data"]
        return [each["account"] for each in data]

    assert await listed(mine, "") == [mine]
    assert await listed(f"{mine}*", account) == [mine, f"{mine}2"]
    assert await listed(f"{account}*", theirs) == [theirs]
    assert await listed(mine, theirs) == []


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "after=x", "unknown=1", "limit=1&limit=2"])
async def test_a_wrong_query_is_refused(root: Any, account: str, query: str) -> None:
    reply = await root.get(f"/v1/accounts/{account}/entries?{query}")
    document = refused(reply, "invalid_request")
    assert [error["field"] for error in document["errors"]] == [query.partition("=")[0]]


# ── for operators and machines ───────────────────────────────────────────────────────────────────


async def test_it_is_alive_and_ready_to_anybody(stack: Stack, url: str) -> None:
    async with httpx2.AsyncClient(base_url=url) as client:
        assert (await client.get("/livez")).json() == {"alive": True}
        ready = await client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json() == {"ready": True, "open": stack.config.shards, "closed": []}


async def test_metrics_name_calls_and_results_and_no_account(
    url: str, root: Any, account: str
) -> None:
    await open_account(root, account, 10)
    async with httpx2.AsyncClient(base_url=url) as client:
        text = (await client.get("/metrics")).text
    assert 'holdfast_call_seconds_count{call="grant",result="ok"}' in text
    assert 'holdfast_shard_open{shard="0"} 1.0' in text
    assert "holdfast_wire_sent_total" in text
    assert "acme" not in text


async def test_the_docs_need_no_other_host(url: str) -> None:
    async with httpx2.AsyncClient(base_url=url, follow_redirects=True) as client:
        page = await client.get("/docs")
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        for name in ("docs.js", "docs.css"):
            assert name in page.text
            asset = await client.get(f"/docs/{name}")
            assert asset.status_code == 200
            assert "http:" not in asset.text and "https:" not in asset.text
        assert "http:" not in page.text and "https:" not in page.text
        description = await client.get("/openapi.json")
        assert description.json()["openapi"] == "3.1.0"
        refused(await client.get("/docs/nothing.js"), "not_found")


async def test_a_problem_leads_to_its_page(url: str) -> None:
    async with httpx2.AsyncClient(base_url=url) as client:
        problem = (await client.get("/v1/accounts")).json()
        page = await client.get(problem["type"])
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert CODES[problem["code"]].meaning in page.text
        refused(await client.get("/problems/nothing"), "not_found")
