"""Plans over HTTP and by command: what they write into accounts, and who keeps what of his own."""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from holdfast import api_keys, cli, plans
from holdfast.audit import SYSTEM
from holdfast.embedded import Postgres, Valkey
from holdfast.errors import StoreUnavailable
from holdfast.ledger import Ledger, open_ledger
from holdfast.model import Account, Context
from holdfast.plans import Definition
from settlement.allowances import Allowances
from settlement.plans import PlanFollower
from tests.api import serving
from tests.stack import Stack
from tests.vetted import settle_all

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONTEXT = Context("test", "test")
_accounts = count(1)


@dataclass
class Service:
    """A stack, the API on it, and a client and key that may do all."""

    stack: Stack
    ledger: Ledger
    follower: PlanFollower
    url: str
    token: str
    client: httpx2.AsyncClient

    async def ok(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        answer = await self.client.request(method, f"/v1/{path}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def refused(self, method: str, path: str, body: Any, status: int) -> Any:
        answer = await self.client.request(method, f"/v1/{path}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def command(self, *words: str) -> tuple[int, str]:
        """A command of `holdfast`, in a thread of this process: its exit code and output."""
        out = io.StringIO()
        where = ("--url", self.url, "--api-key", self.token)

        def run() -> int:
            with contextlib.redirect_stdout(out):
                return cli.main((*words, *where))

        return await asyncio.to_thread(run), out.getvalue()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Service]:
    async with Stack(valkey_server.url, postgres_server.url, shards=2) as stack:
        _, token = await api_keys.create(stack.pool, "test", api_keys.SCOPES)
        ledger = await open_ledger(stack.config)
        async with serving(stack) as url:
            headers = {"Authorization": f"Bearer {token}"}
            async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=20) as client:
                follower = PlanFollower(stack.state, ledger)
                yield Service(stack, ledger, follower, url, token, client)
        await ledger.close()


@pytest.fixture
def account() -> str:
    return f"acme:{next(_accounts)}"


async def test_without_plans_a_plan_is_a_word(service: Service) -> None:
    await service.stack.pool.execute("DELETE FROM account_plan")
    await service.stack.pool.execute("TRUNCATE plan CASCADE")
    made = await service.ok("PUT", "accounts/free", {"plan": "any words"}, 201)
    assert made["plan"] == "any words"
    refused = await service.refused("PUT", "accounts/free/allowance", {"plan": "gold"}, 422)
    assert refused["errors"] == [{"field": "plan", "message": "there is no plan 'gold'"}]


async def test_a_plan_is_defined_changed_and_listed(service: Service) -> None:
    made = await service.ok("PUT", "admin/plans/p1", {"max_hold": 5, "daily_limit": 9}, 201)
    assert (made["revision"], made["max_hold"], made["period"]) == (1, 5, "month")
    assert made == await service.ok("PUT", "admin/plans/p1", {"max_hold": 5, "daily_limit": 9})
    again = await service.ok("PUT", "admin/plans/p1", {"max_hold": 5, "credits_per_period": 7})
    assert (again["revision"], again["daily_limit"], again["credits_per_period"]) == (2, None, 7)
    assert again == await service.ok("GET", "admin/plans/p1")
    await service.ok("PUT", "admin/plans/p2", {}, 201)
    listed = await service.ok("GET", "admin/plans?limit=1")
    assert [each["name"] for each in listed["data"]] == ["p1"]
    rest = await service.ok("GET", f"admin/plans?after={listed['next']}&limit=1000")
    assert "p2" in [each["name"] for each in rest["data"]]
    audited = await service.stack.rows("audit", subject="plan:p1")
    assert [row["action"] for row in audited] == ["plan.create", "plan.change"]
    assert json.loads(audited[1]["before"])["daily_limit"] == 9
    for name, status in (("nowhere", 404), ("a%20b", 422)):
        await service.refused("GET", f"admin/plans/{name}", None, status)
    await service.refused("PUT", "admin/plans/p1", {"credits_per_period": 0}, 422)


async def test_two_who_define_a_plan_at_once_define_it_once(service: Service) -> None:
    put = [service.client.put("/v1/admin/plans/race", json={"max_hold": n}) for n in range(8)]
    answers = await asyncio.gather(*put)
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    last = max((answer.json() for answer in answers), key=lambda each: int(each["revision"]))
    assert last == await service.ok("GET", "admin/plans/race")


async def test_a_key_for_some_accounts_sees_no_plans(service: Service, account: str) -> None:
    _, token = await api_keys.create(service.stack.pool, "some", api_keys.SCOPES, "acme:*")
    headers = {"Authorization": f"Bearer {token}"}
    calls = [("GET", "plans"), ("GET", "plans/p1"), ("PUT", "plans/p1"), ("GET", "allowances")]
    for method, path in calls:
        answer = await service.client.request(
            method, f"/v1/admin/{path}", json={} if method == "PUT" else None, headers=headers
        )
        assert answer.status_code == 403, path
    outside = await service.client.get("/v1/accounts/other/allowance", headers=headers)
    assert outside.json()["code"] == "account_not_found"


async def test_a_plan_brings_its_limits_but_for_those_that_are_sent(
    service: Service, account: str
) -> None:
    plan = {"max_hold": 50, "daily_limit": 80, "max_open_holds": 3}
    await service.ok("PUT", "admin/plans/limits", plan, 201)
    sent = {"plan": "limits", "daily_limit": 200, "overdraft_limit": 1000}
    made = await service.ok("PUT", f"accounts/{account}", sent, 201)
    assert made["limits"] == {
        "max_hold": 50,
        "daily_limit": 200,
        "monthly_limit": None,
        "max_open_holds": 3,
        "models": None,
    }
    refused = await service.client.post(
        f"/v1/accounts/{account}/holds", json={"amount": 51}, headers={"Idempotency-Key": "h"}
    )
    assert (refused.status_code, refused.json()["limit"]) == (402, "max_hold")
    wrong = await service.refused("PUT", f"accounts/{account}", {"plan": "no"}, 422)
    assert wrong["errors"][0]["field"] == "plan"
    assert (await service.ok("GET", f"accounts/{account}"))["plan"] == "limits"
    gone = await service.ok("PUT", f"accounts/{account}", {"plan": None})
    assert (gone["plan"], gone["limits"]["max_hold"]) == (None, 50)
    assert await service.stack.row("account_plan", account=account) is None


async def limits_of(service: Service, account: str) -> tuple[int | None, ...]:
    limits = (await service.ledger.get_account(account)).limits
    return limits.max_hold, limits.daily_limit, limits.monthly_limit, limits.max_open_holds


async def test_accounts_follow_their_plan_but_for_what_is_their_own(
    service: Service, account: str
) -> None:
    """Given accounts on a plan, one with a limit of its own, one closed, If the plan changes, I
    expect each to be brought up to date once, and its own limit to stay."""
    before = {"max_hold": 50, "daily_limit": 80, "max_open_holds": 3}
    await service.ok("PUT", "admin/plans/moves", before, 201)
    own, closed, cold = f"{account}-own", f"{account}-closed", f"{account}-cold"
    for name in (account, own, closed, cold):
        await service.ok("PUT", f"accounts/{name}", {"plan": "moves"}, 201)
    await service.ok("PUT", f"accounts/{own}", {"daily_limit": 500})
    await service.ok("PUT", f"accounts/{closed}", {"status": "closed"})
    await settle_all(service.stack)
    number = service.stack.shards.number_of(cold)
    await service.stack.command("DEL", service.stack.shards.keys[number].acct(cold))

    await service.ok("PUT", "admin/plans/moves", {"max_hold": 60, "monthly_limit": 900})
    assert await service.follower.round() == 4
    assert await limits_of(service, account) == (60, None, 900, None)
    assert await limits_of(service, own) == (60, 500, 900, None)
    assert await limits_of(service, closed) == (50, 80, None, 3)
    assert await limits_of(service, cold) == (60, None, 900, None)
    versions = [(await service.ledger.get_account(name)).version for name in (account, own)]
    assert await service.follower.round() == 0
    await service.stack.pool.execute("UPDATE account_plan SET revision = 1 WHERE plan = 'moves'")
    await service.follower.round()
    assert [
        (await service.ledger.get_account(name)).version for name in (account, own)
    ] == versions, "what is written already is no change"


async def test_the_models_of_a_plan_are_a_limit_of_its_accounts(
    service: Service, account: str
) -> None:
    """Given a plan that allows models, of which one account has its own list, If the plan allows
    others, I expect the account to follow, and the other to keep its list."""
    code, out = await service.command("plan", "put", "few", "--models", "a/large,a/small")
    assert (code, "a/large, a/small" in out) == (0, True), out
    own = f"{account}-own"
    made = await service.ok("PUT", f"accounts/{account}", {"plan": "few"}, 201)
    assert made["limits"]["models"] == ["a/large", "a/small"]
    await service.ok("PUT", f"accounts/{own}", {"plan": "few", "models": ["b:1"]}, 201)
    again = await service.ok("PUT", "admin/plans/few", {"models": ["a/large", "a/small"]})
    assert (again["revision"], again["models"]) == (1, ["a/large", "a/small"])

    await service.ok("PUT", "admin/plans/few", {"models": ["a/small", "a/new"]})
    assert await service.follower.round() == 2
    assert await service.follower.round() == 0
    names = [(await service.ledger.get_account(each)).limits.models for each in (account, own)]
    assert names == [["a/small", "a/new"], ["b:1"]]
    refused = await service.client.post(
        f"/v1/accounts/{account}/holds",
        json={"amount": 1, "usage": {"model": "a/large"}},
        headers={"Idempotency-Key": "h"},
    )
    assert (refused.status_code, refused.json()["limit"]) == (402, "models")

    await service.ok("PUT", "admin/plans/few", {})
    await service.follower.round()
    assert (await service.ledger.get_account(account)).limits.models is None
    await settle_all(service.stack)
    listed = await service.ok("GET", f"accounts?prefix={own}")
    assert [each["limits"]["models"] for each in listed["data"]] == [["b:1"]]
    for models in ([], ["a b"], ["a", "a"], ["m" * 128] * 5, [f"{n}" * 128 for n in range(5)]):
        await service.refused("PUT", "admin/plans/few", {"models": models}, 422)


class Interrupted(Ledger):
    """A ledger on which somebody assigns another plan between a read and the write after it."""

    def __init__(self, ledger: Ledger, when: str) -> None:
        super().__init__(ledger._decisions)
        self._when = when
        self._service_ledger = ledger

    async def _assign(self, account: str) -> None:
        await plans.assign(
            self._service_ledger, account, {"plan": "after"}, context=CONTEXT, by=SYSTEM
        )

    async def put_account(self, account: str, *args: Any, **more: Any) -> Account:
        if self._when == "before the write":
            await self._assign(account)
        answer = await super().put_account(account, *args, **more)
        if self._when == "after the write":
            await self._assign(account)
        return answer


@pytest.mark.parametrize("when", ["before the write", "after the write"])
async def test_a_plan_that_is_assigned_meanwhile_wins(
    service: Service, account: str, when: str
) -> None:
    pool = service.ledger.pool
    await plans.put(pool, "before", Definition(max_hold=1), by=SYSTEM)
    await plans.put(pool, "after", Definition(max_hold=9, daily_limit=90), by=SYSTEM)
    await service.ok("PUT", f"accounts/{account}", {"plan": "before"}, 201)
    await plans.put(pool, "before", Definition(max_hold=2), by=SYSTEM)

    await PlanFollower(service.stack.state, Interrupted(service.ledger, when)).round()
    await service.follower.round()

    assert await limits_of(service, account) == (9, 90, None, None)
    row = await service.stack.row("account_plan", account=account)
    assert row is not None
    assert (row["plan"], row["revision"]) == ("after", 1)
    await service.stack.pool.execute("UPDATE account_plan SET revision = 99")


async def test_of_two_assignments_the_one_that_redis_took_last_stands(
    service: Service, account: str
) -> None:
    """Given two who assign plans at once, If the first one's note comes last, I expect it to be
    dropped: the account has the other's limits."""
    await plans.put(service.ledger.pool, "one", Definition(max_hold=1), by=SYSTEM)
    await plans.put(service.ledger.pool, "two", Definition(max_hold=2), by=SYSTEM)

    class Slow(Ledger):
        async def put_account(self, name: str, *args: Any, **more: Any) -> Account:
            answer = await super().put_account(name, *args, **more)
            await service.ok("PUT", f"accounts/{account}", {"plan": "two"})
            return answer

    slow = Slow(service.ledger._decisions)
    await plans.assign(slow, account, {"plan": "one"}, context=CONTEXT, by=SYSTEM)

    row = await service.stack.row("account_plan", account=account)
    assert row is not None
    assert (row["plan"], row["max_hold"]) == ("two", 2)
    assert (await limits_of(service, account))[0] == 2


async def test_one_account_that_cannot_be_changed_holds_up_no_other(
    service: Service, account: str
) -> None:
    await plans.put(service.ledger.pool, "stuck", Definition(max_hold=1), by=SYSTEM)
    names = [f"{account}-{number}" for number in range(3)]
    for name in names:
        await service.ok("PUT", f"accounts/{name}", {"plan": "stuck"}, 201)
    await plans.put(service.ledger.pool, "stuck", Definition(max_hold=2), by=SYSTEM)

    class Partial(Ledger):
        async def get_account(self, name: str) -> Account:
            if name == names[0]:
                raise StoreUnavailable("lease", "closed for a moment")
            return await super().get_account(name)

    follower = PlanFollower(service.stack.state, Partial(service.ledger._decisions))
    assert await follower.round() == 3
    assert await follower.round() == 0, "it is put off"
    assert [(await limits_of(service, name))[0] for name in names] == [1, 2, 2]
    await service.follower.round()
    assert (await limits_of(service, names[0]))[0] == 2


# ── allowances, and the commands ─────────────────────────────────────────────────────────────────


async def test_an_allowance_by_command(service: Service, account: str) -> None:
    """Given a plan that gives credits, If an account is set on it, I expect credits once, a
    history that says so, and nothing more after a stop."""
    words = ("plan", "put", "gold", "--credits", "5cr", "--rollover-cap", "1cr")
    code, out = await service.command(*words, "--max-hold", "2cr", "--json")
    assert (code, json.loads(out)["rollover_cap"]) == (0, 1_000_000)
    assert (await service.command("allowance", "set", account, "gold"))[0] == 1
    await service.ok("PUT", f"accounts/{account}", {}, 201)
    code, out = await service.command("allowance", "set", account, "gold", "--anchor", "2026-01-31")
    assert (code, "gold" in out, "5.000000" in out) == (0, True, True)
    assert (await service.ok("GET", f"accounts/{account}"))["limits"]["max_hold"] == 2_000_000
    await settle_all(service.stack)

    allowances = Allowances(service.stack.pool)
    now = await service.stack.pool.fetchval("SELECT clock_timestamp()")
    assert (await allowances.round(now))[0] == 1
    assert (await allowances.round(now))[0] == 0
    owed = await service.stack.row("outbox", account=account)
    assert owed is not None
    assert (owed["amount"], owed["source"]) == (5_000_000, "allowance")

    code, out = await service.command("allowance", "history", account, "--json")
    (period,) = json.loads(out)["data"]
    assert (period["granted"], period["rolled_over"]) == (5_000_000, 0)
    assert (period["missed"], period["state"]) == (False, "pending")
    assert period["period_start"] == now.date().replace(day=1).isoformat()
    shown = await service.ok("GET", f"accounts/{account}/allowance")
    assert shown["next_at"] == period["period_end"]
    assert shown["history"] == {"data": [period], "next": None}
    none = await service.ok("GET", f"accounts/{account}/allowance?after={period['period_start']}")
    assert none["history"]["data"] == []
    await service.refused("GET", f"accounts/{account}/allowance?after=x", None, 422)

    for words, seen in (
        (("plan", "list"), "gold"),
        (("plan", "show", "gold"), "5.000000"),
        (("allowance", "list"), account),
        (("allowance", "show", account), "2026-01-31"),
        (("allowance", "history", account), "pending"),
        (("allowance", "stop", account, "--yes"), "stopped"),
        (("allowance", "list"), "stopped"),
    ):
        code, out = await service.command(*words)
        assert (code, seen in out) == (0, True), out
    code, out = await service.command("allowance", "show", f"{account}-none")
    assert (code, out) == (1, "")


async def test_a_plan_that_gives_nothing_is_no_allowance(service: Service, account: str) -> None:
    await service.ok("PUT", "admin/plans/nothing", {"max_hold": 1}, 201)
    await service.ok("PUT", f"accounts/{account}", {"plan": "nothing"}, 201)
    await service.refused("GET", f"accounts/{account}/allowance", None, 404)
    path = f"accounts/{account}/allowance"
    refused = await service.refused("PUT", path, {"plan": "nothing"}, 422)
    assert refused["errors"][0]["message"] == "plan 'nothing' gives no credits"
    await service.refused("PUT", path, {"plan": "gold", "anchor": "2026-02-30"}, 422)
