"""What an admin does to the books: corrections, closing, debts, and what was not paid."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from holdfast import debts
from holdfast.closing import close_account
from holdfast.embedded import Postgres, Valkey
from holdfast.errors import Conflict
from holdfast.ledger import Ledger, open_ledger
from holdfast.model import Context
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
    async with serving(stack) as url:
        yield url


@module_fixture
async def root(stack: Stack, url: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with logged_in(stack, url) as (_, client):
        yield client


@module_fixture
async def ledger(stack: Stack) -> AsyncIterator[Ledger]:
    """A ledger of its own, for what HTTP does not let a test come between."""
    ledger = await open_ledger(stack.config)
    yield ledger
    await ledger.close()


@pytest.fixture
def account() -> str:
    return f"adjusted:{next(_accounts)}"


async def funded(root: httpx2.AsyncClient, account: str, amount: int, **settings: Any) -> str:
    """The path of a new account that has so much."""
    path = f"/v1/accounts/{account}"
    assert (await root.put(path, json=settings)).status_code == 201
    if amount:
        await post(root, f"{path}/grants", "opening", amount=amount)
    return path


async def refused(root: httpx2.AsyncClient, path: str, key: str | None = None, **body: Any) -> Any:
    """Status and code of a POST that is refused, and the document."""
    reply = await root.post(path, json=body, headers={"Idempotency-Key": key} if key else {})
    document = reply.json()
    assert reply.status_code == document["status"]
    return reply.status_code, document["code"], document


# ── adjustments ──────────────────────────────────────────────────────────────────────────────────


async def test_an_adjustment_adds_takes_and_is_done_once(
    stack: Stack, root: httpx2.AsyncClient, account: str
) -> None:
    path = await funded(root, account, 100)
    for replayed in (False, True):
        reply = await root.post(
            f"{path}/adjustments",
            json={"amount": -30, "reason": "counted twice"},
            headers={"Idempotency-Key": "a1"},
        )
        assert reply.status_code == (200 if replayed else 201)
        assert (reply.headers.get("idempotency-replayed") == "true") is replayed
        assert (reply.json()["amount"], reply.json()["available"]) == (-30, 70)
    assert (await post(root, f"{path}/adjustments", "a2", amount=5, reason="x"))["available"] == 75
    await stack.settle()
    *_, first, second = await stack.rows("audit", account=account)
    assert (first["action"], second["action"]) == ("account.adjust", "account.adjust")
    assert '"reason": "counted twice"' in first["after"]
    assert '"available": 100' in first["before"]


@pytest.mark.parametrize(
    "body",
    [
        {"amount": 5},
        {"amount": 5, "reason": ""},
        {"amount": 5, "reason": " \n"},
        {"amount": 0, "reason": "x"},
        {"amount": 1.5, "reason": "x"},
        {"amount": "5", "reason": "x"},
        {"amount": -(9 * 10**15) - 1, "reason": "x"},
        {"reason": "x"},
    ],
)
async def test_an_adjustment_that_is_none_is_refused(
    root: httpx2.AsyncClient, account: str, body: dict[str, Any]
) -> None:
    path = f"/v1/accounts/{account}/adjustments"
    assert (await refused(root, path, "a", **body))[:2] == (422, "invalid_request")


async def test_an_adjustment_needs_a_key_an_admin_and_funds(
    stack: Stack, url: str, root: httpx2.AsyncClient, account: str
) -> None:
    path = await funded(root, account, 10) + "/adjustments"
    body = {"amount": -11, "reason": "x"}
    assert (await refused(root, path, **body))[:2] == (400, "idempotency_key_missing")
    assert (await refused(root, path, "a", **body))[:2] == (402, "insufficient_credits")
    async with logged_in(stack, url, "read", "spend", "credit") as (_, other):
        assert (await refused(other, path, "a", **body))[:2] == (403, "forbidden")


# ── the end of an account ────────────────────────────────────────────────────────────────────────


async def test_an_empty_account_closes_and_stays_closed(
    root: httpx2.AsyncClient, account: str
) -> None:
    path = await funded(root, account, 10)
    await post(root, f"{path}/charges", "c1", amount=10)
    for _ in range(2):
        assert (await post(root, f"{path}/close"))["status"] == "closed"
    assert (await refused(root, f"{path}/grants", "g", amount=1))[1] == "account_closed"


@pytest.mark.parametrize("write_off", [False, True])
async def test_open_holds_keep_an_account_open(
    root: httpx2.AsyncClient, account: str, write_off: bool
) -> None:
    """Given a hold that holds nothing any more, I expect it to count, and nothing to be changed."""
    path = await funded(root, account, 10)
    await post(root, f"{path}/holds", "h1", amount=10)
    await post(root, f"{path}/holds/h1/commit", "p1", amount=10, final=False)
    body = {"write_off": write_off, "reason": "gone"}
    status, code, document = await refused(root, f"{path}/close", **body)
    assert (status, code) == (409, "account_not_empty")
    left = {name: document[name] for name in ("available", "held", "debt", "open_holds")}
    assert left == {"available": 0, "held": 0, "debt": 0, "open_holds": 1}
    assert (await root.get(path)).json()["status"] == "active"
    # The script itself refuses it as well, whoever asks.
    reply = await root.put(path, json={"status": "closed"})
    assert reply.json()["errors"][0]["field"] == "status"
    await post(root, f"{path}/holds/h1/commit", amount=0)
    assert (await post(root, f"{path}/close", **body))["status"] == "closed"


async def test_a_balance_keeps_an_account_open_or_is_written_off(
    stack: Stack, root: httpx2.AsyncClient, account: str
) -> None:
    path = await funded(root, account, 100)
    await post(root, f"{path}/grants", "g", amount=7, expires_at="2100-01-01T00:00:00Z")
    status, code, document = await refused(root, f"{path}/close")
    assert (status, code, document["available"]) == (409, "account_not_empty", 107)
    assert "available" in document["detail"]
    assert (await refused(root, f"{path}/close", write_off=True))[:2] == (422, "invalid_request")
    assert (await root.get(path)).json()["status"] == "active"
    closed = await post(root, f"{path}/close", write_off=True, reason="customer left")
    assert (closed["status"], closed["available"], closed["granted"]) == ("closed", 0, 0)
    await stack.settle()
    rows = await stack.rows("audit", account=account)
    assert [row["action"] for row in rows[3:]] == [
        "account.freeze",
        "account.adjust",
        "account.close",
    ]
    assert all('"reason": "customer left"' in row["after"] for row in rows[3:])


async def test_a_debt_is_written_off_too(root: httpx2.AsyncClient, account: str) -> None:
    path = await funded(root, account, 10)
    await post(root, f"{path}/charges", "c1", amount=25, on_shortfall="debt")
    _, code, document = await refused(root, f"{path}/close")
    assert (code, document["debt"]) == ("account_not_empty", 15)
    closed = await post(root, f"{path}/close", write_off=True, reason="lost")
    assert (closed["status"], closed["available"], closed["debt"]) == ("closed", 0, 0)


async def test_a_close_that_was_cut_off_goes_on(
    ledger: Ledger, root: httpx2.AsyncClient, account: str
) -> None:
    """Given one that froze the account and wrote it off, and ended there, I expect the next to
    close it; credits that came in meanwhile are written off as well."""
    path = await funded(root, account, 50)
    context = Context("r-1", "test")
    await ledger.put_account(account, {"status": "frozen"}, context=context)
    version = (await ledger.get_account(account)).version
    await ledger.adjust(
        account, f"close:{version}", amount=-50, reason="gone", context=Context("r-1", "test")
    )
    await post(root, f"{path}/grants", "late", amount=3)
    closed = await post(root, f"{path}/close", write_off=True, reason="gone")
    assert (closed["status"], closed["granted"]) == ("closed", 0)


async def test_credits_that_keep_coming_in_are_not_lost_sight_of(
    ledger: Ledger, root: httpx2.AsyncClient, account: str
) -> None:
    """Given a grant behind every look at the account, I expect a refusal, and it thawed again."""
    path = await funded(root, account, 1)
    numbers = count()

    class Busy(Ledger):
        async def get_account(self, account: str) -> Any:
            found = await ledger.get_account(account)
            context = Context("r-2", "test")
            await ledger.grant(account, f"more-{next(numbers)}", amount=1, context=context)
            return found

    busy = Busy.__new__(Busy)
    busy.__dict__.update(ledger.__dict__)
    with pytest.raises(Conflict) as refusal:
        await close_account(
            busy, account, write_off=True, reason="x", context=Context("r-3", "test")
        )
    assert refusal.value.code == "account_not_empty"
    found = (await root.get(path)).json()
    assert found["status"] == "active"
    assert found["available"] >= 1


async def test_an_account_that_is_not_there_is_not_opened_by_closing_it(
    root: httpx2.AsyncClient, account: str
) -> None:
    path = f"/v1/accounts/{account}"
    assert (await refused(root, f"{path}/close"))[:2] == (404, "account_not_found")
    assert (await root.get(path)).status_code == 404


# ── debts ────────────────────────────────────────────────────────────────────────────────────────


async def test_accounts_in_debt_are_listed_until_they_have_paid(
    stack: Stack, root: httpx2.AsyncClient, account: str
) -> None:
    names = [f"{account}-{letter}" for letter in "abc"]
    for name in names:
        path = await funded(root, name, 10)
        await post(root, f"{path}/charges", "c1", amount=25, on_shortfall="debt")
    await stack.settle()
    found: list[Any] = []
    after: dict[str, Any] = {}
    while True:
        page = (await root.get("/v1/admin/debts", params={"limit": 1, **after})).json()
        found += [each for each in page["data"] if each["account"] in names]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert [each["account"] for each in found] == names
    assert found[0]["debt"] == 15
    await post(root, f"/v1/accounts/{names[0]}/grants", "g", amount=20)
    await post(root, f"/v1/accounts/{names[1]}/adjustments", "a", amount=15, reason="forgiven")
    await stack.settle()
    for name, debt in zip(names, ([], [], [15]), strict=True):
        page = (await root.get("/v1/admin/debts", params={"account": name})).json()
        assert [each["debt"] for each in page["data"]] == debt


async def unpaid(stack: Stack, root: httpx2.AsyncClient, account: str) -> str:
    """An account with a charge and a hold that could take 10 less than they should, each."""
    path = await funded(root, account, 30)
    await post(root, f"{path}/charges", "c1", amount=20, on_shortfall="cap")
    await post(root, f"{path}/holds", "h1", amount=10)
    await post(root, f"{path}/holds/h1/commit", amount=20, on_shortfall="cap")
    await post(root, f"{path}/charges", "c2", amount=10, on_shortfall="cap")
    await stack.settle()
    return path


async def left(root: httpx2.AsyncClient, account: str) -> dict[str, tuple[int, int]]:
    """What was uncollected and what collected since, of everything that is not all collected."""
    query = {"account": account}
    page = (await root.get("/v1/admin/debts/uncollected", params=query)).json()
    return {each["of"]: (each["uncollected"], each["collected"]) for each in page["data"]}


async def collecting(stack: Stack, call: Any) -> Any:
    """The outcome of a call that waits until its charge has settled."""
    task = asyncio.ensure_future(call)
    while not task.done():
        await stack.settle()
        await asyncio.sleep(0.01)
    return task.result()


async def test_what_was_not_paid_is_collected_in_parts_and_never_twice(
    stack: Stack, root: httpx2.AsyncClient, account: str
) -> None:
    path = await unpaid(stack, root, account)
    assert await left(root, account) == {"h1": (10, 0), "c2": (10, 0)}
    collect, body = "/v1/admin/debts/collect", {"account": account, "of": "h1"}
    assert (await refused(root, collect, **body))[:2] == (402, "insufficient_credits")
    await post(root, f"{path}/grants", "g", amount=100)
    assert (await refused(root, collect, **body, amount=11))[:2] == (422, "invalid_request")
    taken = await collecting(stack, post(root, collect, **body, amount=4))
    assert (taken["amount"], taken["durability"]) == (4, "settled")
    assert taken["metadata"] == {"collects": "h1"}
    assert await left(root, account) == {"h1": (10, 4), "c2": (10, 0)}
    assert (await collecting(stack, post(root, collect, **body)))["amount"] == 6
    assert await left(root, account) == {"c2": (10, 0)}
    status, code, document = await refused(root, collect, **body)
    assert (status, code) == (422, "invalid_request")
    assert "0 is left" in document["detail"]
    assert (await root.get(path)).json()["available"] == 90
    rows = await stack.rows("audit", account=account, action="debt.collect")
    assert '"of": "h1"' in rows[0]["after"]


async def test_a_call_that_is_repeated_collects_once(
    stack: Stack, root: httpx2.AsyncClient, account: str
) -> None:
    """Given a call whose answer was lost, If it is repeated when its charge has long settled, I
    expect the same charge; and none where that was longer ago than keys are kept."""
    path = await unpaid(stack, root, account)
    await post(root, f"{path}/grants", "g", amount=100)
    collect, body = "/v1/admin/debts/collect", {"account": account, "of": "c2"}
    first = await collecting(stack, post(root, collect, "once", **body, amount=4))
    for sent in ({"amount": 4}, {}):
        again = await root.post(collect, json=body | sent, headers={"Idempotency-Key": "once"})
        assert (again.status_code, again.json()["id"]) == (200, first["id"])
    assert await left(root, account) == {"h1": (10, 0), "c2": (10, 4)}
    await stack.pool.execute(
        "UPDATE record SET made_at = made_at - interval '30 days' WHERE key = $1", first["id"]
    )
    late = await root.post(collect, json=body, headers={"Idempotency-Key": "once"})
    assert (late.status_code, late.json()["code"]) == (422, "invalid_request")
    assert (await root.get(path)).json()["available"] == 96


async def test_many_who_collect_at_once_take_it_once(
    stack: Stack, root: httpx2.AsyncClient, account: str
) -> None:
    path = await unpaid(stack, root, account)
    await post(root, f"{path}/grants", "g", amount=100)
    body = {"account": account, "of": "c2"}
    calls = [
        root.post("/v1/admin/debts/collect", json={**body, "amount": amount})
        for amount in (10, 10, 10, 7, 3)
    ]
    replies = await collecting(stack, asyncio.gather(*calls))
    assert {reply.status_code for reply in replies} <= {200, 201, 422}
    assert sorted(reply.status_code for reply in replies).count(201) >= 1
    for _ in range(3):
        await collecting(stack, root.post("/v1/admin/debts/collect", json=body))
    assert (await root.get(path)).json()["available"] == 90
    assert "c2" not in await left(root, account)


async def test_what_nobody_owes_is_not_collected(root: httpx2.AsyncClient, account: str) -> None:
    await funded(root, account, 100)
    body = {"account": account, "of": "opening"}
    assert (await refused(root, "/v1/admin/debts/collect", **body))[:2] == (404, "not_found")


async def test_lists_of_debts_are_for_admins_of_all_accounts(stack: Stack, url: str) -> None:
    async with logged_in(stack, url, "admin", accounts="adjusted:*") as (_, client):
        for path in ("/v1/admin/debts", "/v1/admin/debts/uncollected"):
            assert (await client.get(path)).status_code == 403
        body = {"account": "adjusted:1", "of": "x"}
        reply = await client.post("/v1/admin/debts/collect", json=body)
        assert reply.status_code == 403


@pytest.mark.parametrize("after", ["a~b", "a~b~-1", "~", "x/y"])
async def test_a_cursor_that_is_none_is_refused(root: httpx2.AsyncClient, after: str) -> None:
    query = {"after": after}
    for path in ("/v1/admin/debts", "/v1/admin/debts/uncollected"):
        assert (await root.get(path, params=query)).status_code == 422


async def test_pages_of_what_was_not_paid_follow_each_other(
    stack: Stack, root: httpx2.AsyncClient, ledger: Ledger, account: str
) -> None:
    await unpaid(stack, root, account)
    first = await debts.uncollected(ledger.pool, account=account, after=None, limit=1)
    rest = await debts.uncollected(ledger.pool, account=account, after=first.next, limit=1)
    assert [each.of for each in (*first.data, *rest.data)] == ["c2", "h1"]
    assert rest.next is None
