"""The client against a real HTTP server with scripted answers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime

import pytest
from scripted_service import Reply, ScriptedService, hold_answer, problem, running_service

from holdfast import client as sdk
from holdfast.client import (
    AccountSettings,
    AsyncClient,
    Backoff,
    Client,
    ConnectionLost,
    HoldfastError,
    calls,
)

FAST = Backoff(retries=4, base_s=0.001)


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedService]:
    with running_service() as running:
        yield running


@pytest.fixture
def service(server: ScriptedService) -> ScriptedService:
    server.forget()
    return server


@pytest.fixture
async def client(service: ScriptedService) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service.url, "hf_secret", retries=FAST) as made:
        yield made


@pytest.fixture
def blocking(service: ScriptedService) -> Iterator[Client]:
    with Client(service.url, "hf_secret", retries=FAST) as made:
        yield made


# -- requests and results -----------------------------------------------------------------------


async def test_a_reserve_is_sent_as_the_contract_says(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.will_answer(Reply(201, hold_answer(new_field=1), {"x-request-id": "req-7"}))

    hold = await client.reserve("acme", 40, ttl_seconds=60, key="job-1", durability="settled")

    (asked,) = service.asked
    assert (asked.method, asked.path) == ("POST", "/v1/accounts/acme/holds")
    assert asked.body == {"amount": 40, "ttl_seconds": 60}
    assert asked.key == "job-1"
    assert asked.headers["authorization"] == "Bearer hf_secret"
    assert asked.headers["holdfast-durability"] == "settled"
    assert (hold.id, hold.state, hold.amount, hold.available) == ("job-1", "held", 40, 60)
    assert hold.expires_at == datetime(2026, 11, 20, 7, 15, 0, 123_000, tzinfo=UTC)
    assert (hold.key, hold.created, hold.replayed, hold.request_id) == (
        "job-1",
        True,
        False,
        "req-7",
    )
    assert hold.raw["new_field"] == 1


async def test_a_key_is_made_and_returned_where_none_is_given(
    service: ScriptedService, client: AsyncClient
) -> None:
    first = await client.reserve("acme", 1)
    second = await client.reserve("acme", 1)

    assert [each.key for each in service.asked] == [first.key, second.key]
    assert first.key
    assert first.key != second.key


@pytest.mark.parametrize(
    ("call", "keyed"),
    [
        (calls.commit("acme", "job-1", 5), False),
        (calls.commit("acme", "job-1", 5, final=False), True),
        (calls.release("acme", "job-1"), False),
        (calls.extend("acme", "job-1", ttl_seconds=60), False),
        (calls.extend("acme", "job-1", add_amount=5), True),
        (calls.charge("acme", 5), True),
        (calls.refund("acme", "job-1"), True),
        (calls.grant("acme", 5, source="promo"), True),
    ],
)
def test_only_what_may_rightly_be_done_twice_gets_a_key(
    call: sdk.Call[object], keyed: bool
) -> None:
    assert (call.key is not None) is keyed


def test_what_is_not_given_is_not_sent() -> None:
    assert calls.commit("acme", "job-1").body == {}
    assert calls.commit("acme", "job-1", 0).body == {"amount": 0}
    assert calls.commit("acme", "job-1", 3, final=False, on_shortfall="cap").body == {
        "amount": 3,
        "final": False,
        "on_shortfall": "cap",
    }


def test_a_model_is_sent_as_usage() -> None:
    model = {"amount": 5, "usage": {"model": "a/b"}}
    assert calls.reserve("acme", 5, model="a/b").body == model
    assert calls.charge("acme", 5, model="a/b").body == model
    assert calls.reserve("acme", 5, usage={"model": "a/b"}).body == model


def test_a_limit_is_taken_away_by_none() -> None:
    settings: AccountSettings = {"daily_limit": None, "plan": "pro"}
    call = calls.put_account("acme", **settings)
    assert call.body == {"daily_limit": None, "plan": "pro"}


def test_an_expiry_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        calls.grant("acme", 5, source="promo", expires_at=datetime(2027, 1, 1))


@pytest.mark.parametrize("bad", ["", "a/b", "..", ".", "a b", "{a}", "é", "a" * 129, "a\r\nX: y"])
async def test_an_id_that_would_address_something_else_is_not_sent(
    service: ScriptedService, client: AsyncClient, bad: str
) -> None:
    with pytest.raises(ValueError, match="is not an id"):
        await client.get_account(bad)
    with pytest.raises(ValueError, match="is not an id"):
        await client.commit("acme", bad)
    with pytest.raises(ValueError, match="is not an id"):
        await client.reserve("acme", 1, key=bad)
    assert service.asked == []


async def test_an_amount_that_json_cannot_hold_is_not_sent(
    service: ScriptedService, client: AsyncClient
) -> None:
    with pytest.raises(ValueError, match="JSON"):
        await client.reserve("acme", float("nan"))  # type: ignore[arg-type]
    assert service.asked == []


async def test_an_account_is_read_with_what_is_known_of_it(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.will_answer(
        Reply(
            200,
            {
                "account": "acme",
                "status": "active",
                "available": 60,
                "held": 40,
                "spent": 7,
                "limits": {"daily": 100},
                "grants": [{"id": "g1", "remaining": 5}],
                "version": 9,
                "stale": True,
            },
        )
    )
    account = await client.get_account("acme")
    assert (account.available, account.held, account.spent, account.version) == (60, 40, 7, 9)
    assert account.limits == {"daily": 100}
    assert account.grants == ({"id": "g1", "remaining": 5},)
    assert account.stale
    assert account.debt == 0


def _entry(version: int) -> dict[str, object]:
    return {"version": version, "seq": version * 10, "type": "reserve", "hold": f"h{version}"}


async def test_a_journal_is_read_page_by_page_to_its_end(
    service: ScriptedService, client: AsyncClient, blocking: Client
) -> None:
    pages = [
        Reply(200, {"data": [_entry(1), _entry(2)], "next": "c2"}),
        Reply(200, {"data": [_entry(3)], "next": None}),
    ]
    service.will_answer(*pages, *pages)

    versions = [each.version async for each in client.iter_entries("acme")]
    assert versions == [1, 2, 3]
    assert [each.query for each in service.asked] == ["limit=1000", "after=c2&limit=1000"]
    assert [each.version for each in blocking.iter_entries("acme")] == [1, 2, 3]


async def test_usage_is_asked_for_by_day_and_group(
    service: ScriptedService, client: AsyncClient
) -> None:
    row = {"used": 50, "spent": 40, "calls": 3, "model": "small"}
    service.will_answer(*[Reply(200, {"data": [row], "next": None})] * 2)

    page = await client.usage("acme", group_by="model", first=date(2026, 11, 1), limit=5)
    await client.usage("acme", group_by=("day", "model"), last=date(2026, 11, 2), member="")

    assert service.asked[0].path == "/v1/accounts/acme/usage"
    assert service.asked[0].query == "from=2026-11-01&group_by=model&limit=5"
    assert service.asked[1].query == "to=2026-11-02&group_by=day%2Cmodel&member="
    (found,) = page.data
    assert (found.used, found.spent, found.calls, found.model) == (50, 40, 3, "small")


async def test_a_forecast_has_its_time(service: ScriptedService, client: AsyncClient) -> None:
    document = {"account": "acme", "available": 9, "balance_level": None, "burn_per_day": 3}
    times = {"basis_days": 7.5, "runs_out_at": "2026-11-23T00:00:00.000Z"}
    service.will_answer(Reply(200, document | times), Reply(200, document | {"basis_days": 1}))

    found, never = await client.forecast("acme"), await client.forecast("acme")

    assert service.asked[0].path == "/v1/accounts/acme/forecast"
    assert (found.burn_per_day, found.basis_days) == (3, 7.5)
    assert found.runs_out_at == datetime(2026, 11, 23, tzinfo=UTC)
    assert never.runs_out_at is None


async def test_a_batch_gives_each_call_its_own_result_or_error(
    service: ScriptedService, client: AsyncClient
) -> None:
    denied = problem(402, "insufficient_credits").body
    service.will_answer(
        Reply(
            200,
            {
                "data": [
                    {"status": 200, "body": hold_answer(id="k1"), "replayed": True},
                    {"status": 402, "body": denied, "replayed": False},
                ]
            },
        )
    )
    wanted = [calls.reserve("acme", 40, key="k1"), calls.commit("acme", "k0", 5)]

    first, second = await client.batch(wanted)

    assert isinstance(first.result, sdk.Hold)
    assert (first.result.id, first.result.key, first.error) == ("k1", "k1", None)
    assert first.result.replayed
    assert isinstance(second.error, sdk.InsufficientCredits)
    assert second.result is None
    assert second.call is wanted[1]
    assert service.asked[0].path == "/v1/batch"
    assert service.asked[0].body == {
        "operations": [
            {"op": "reserve", "account": "acme", "key": "k1", "body": {"amount": 40}},
            {"op": "commit", "account": "acme", "hold": "k0", "body": {"amount": 5}},
        ]
    }


async def test_a_batch_that_cannot_be_is_refused_before_it_is_sent(
    service: ScriptedService, client: AsyncClient
) -> None:
    for bad in ([], [calls.get_account("acme")], [calls.release("acme", "h")] * 1_001):
        with pytest.raises(ValueError, match="a batch takes"):
            await client.batch(bad)
    assert service.asked == []


# -- errors -------------------------------------------------------------------------------------

CODES = {
    (402, "insufficient_credits"): sdk.InsufficientCredits,
    (402, "limit_exceeded"): sdk.LimitExceeded,
    (402, "commit_exceeds_funds"): sdk.CommitExceedsFunds,
    (404, "account_not_found"): sdk.AccountNotFound,
    (404, "hold_not_found"): sdk.HoldNotFound,
    (404, "not_found"): sdk.NotFound,
    (400, "idempotency_key_missing"): sdk.BadRequest,
    (400, "signature_invalid"): sdk.BadRequest,
    (401, "unauthenticated"): sdk.Unauthenticated,
    (403, "forbidden"): sdk.Forbidden,
    (405, "method_not_allowed"): HoldfastError,
    (409, "hold_committed"): sdk.HoldCommitted,
    (409, "hold_released"): sdk.HoldReleased,
    (409, "hold_expired"): sdk.HoldExpired,
    (409, "hold_open"): sdk.HoldOpen,
    (409, "account_frozen"): sdk.AccountFrozen,
    (409, "account_closed"): sdk.AccountClosed,
    (409, "account_not_empty"): sdk.AccountNotEmpty,
    (409, "payment_duplicate"): sdk.PaymentDuplicate,
    (413, "body_too_large"): sdk.BodyTooLarge,
    (422, "invalid_request"): sdk.InvalidRequest,
    (422, "amount_limit"): sdk.AmountLimit,
    (422, "refund_exceeds"): sdk.RefundExceeds,
    (422, "idempotency_key_reused"): sdk.IdempotencyKeyReused,
    (422, "price_unknown"): sdk.PriceUnknown,
    (422, "price_anomaly"): sdk.PriceAnomaly,
    (429, "rate_limited"): sdk.RateLimited,
    (500, "internal_error"): sdk.OutcomeUnknown,
    (503, "store_unavailable"): sdk.StoreUnavailable,
    (503, "overloaded"): sdk.Overloaded,
    (503, "outcome_unknown"): sdk.OutcomeUnknown,
    (409, "a_code_of_next_year"): sdk.Conflict,
    (418, "a_status_of_next_year"): HoldfastError,
}


async def test_every_code_becomes_its_error(service: ScriptedService, client: AsyncClient) -> None:
    for (status, code), kind in CODES.items():
        service.will_answer(problem(status, code, field="amount"))
        with pytest.raises(HoldfastError) as caught:
            await client.reserve("acme", 1, key="k")
        error = caught.value
        assert type(error) is kind, code
        assert (error.code, error.status, error.request_id, error.key) == (
            code,
            status,
            "req-1",
            "k",
        )
        assert error.detail == f"because of {code}"
        assert error.problem["field"] == "amount"
        assert str(error) == f"{code}: because of {code} (request req-1)"


async def test_what_is_final_is_asked_once(service: ScriptedService, client: AsyncClient) -> None:
    service.will_answer(problem(402, "insufficient_credits"))
    with pytest.raises(sdk.InsufficientCredits):
        await client.reserve("acme", 1)
    assert len(service.asked) == 1


async def test_what_the_service_says_not_to_retry_is_not(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.will_answer(
        problem(503, "overloaded", retryable=True, headers={"x-should-retry": "false"})
    )
    with pytest.raises(sdk.Overloaded):
        await client.reserve("acme", 1)
    assert len(service.asked) == 1


async def test_a_page_of_something_else_is_no_answer(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.will_answer(Reply(404, "<h1>not here</h1>"))
    with pytest.raises(sdk.UnexpectedAnswer, match="holdfast's address"):
        await client.get_account("acme")
    service.will_answer(Reply(200, "<h1>hello</h1>"))
    with pytest.raises(sdk.UnexpectedAnswer, match="not of the contract"):
        await client.get_account("acme")
    service.will_answer(Reply(200, {"id": "job-1"}))
    with pytest.raises(sdk.UnexpectedAnswer, match="lacks a field"):
        await client.get_hold("acme", "job-1")


@pytest.mark.parametrize("base_url", ["127.0.0.1:8080", "ftp://host", ""])
def test_an_address_that_is_none_is_refused(base_url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        Client(base_url, "key")


# -- retries ------------------------------------------------------------------------------------

LOST = {
    "refused for now": problem(503, "store_unavailable", retryable=True),
    "outcome unknown": problem(503, "outcome_unknown", retryable=True),
    "rate limited": problem(429, "rate_limited", retryable=True),
    "a gateway's page": Reply(502, "<h1>bad gateway</h1>"),
    "half an answer": Reply(201, hold_answer(), half=True),
}


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST.keys())
async def test_it_is_repeated_with_the_same_key(
    service: ScriptedService, client: AsyncClient, blocking: Client, lost: Reply
) -> None:
    done = Reply(200, hold_answer(), {"idempotency-replayed": "true"})
    service.will_answer(lost, lost, done, lost, lost, done)

    hold = await client.reserve("acme", 40)
    assert hold.replayed
    assert [each.key for each in service.asked] == [hold.key] * 3
    assert len({str(each.body) for each in service.asked}) == 1

    hold = blocking.reserve("acme", 40)
    assert hold.replayed
    assert [each.key for each in service.asked[3:]] == [hold.key] * 3


async def test_repeats_are_bounded_and_the_last_error_is_told(service: ScriptedService) -> None:
    service.on_ask = lambda asked: problem(503, "overloaded", retryable=True)
    for retries in (0, 2):
        service.asked.clear()
        async with AsyncClient(service.url, "k", retries=Backoff(retries, base_s=0.001)) as client:
            with pytest.raises(sdk.Overloaded):
                await client.reserve("acme", 1)
        assert len(service.asked) == retries + 1


async def test_no_answer_leaves_the_key_with_the_caller(service: ScriptedService) -> None:
    service.on_ask = lambda asked: Reply(never=True)
    async with AsyncClient(service.url, "k", retries=0, timeout_s=0.2) as client:
        with pytest.raises(ConnectionLost) as caught:
            await client.reserve("acme", 1)
    assert caught.value.key == service.asked[0].key
    assert caught.value.retryable
    assert caught.value.status is None
    assert isinstance(caught.value, sdk.OutcomeUnknown)


async def test_retry_after_is_waited_for(service: ScriptedService, client: AsyncClient) -> None:
    wait = problem(429, "rate_limited", retryable=True, headers={"retry-after": "1"})
    service.will_answer(wait)
    await client.reserve("acme", 1)
    first, second = service.asked
    assert second.at_s - first.at_s >= 1.0


async def test_a_retry_after_beyond_patience_is_the_callers(
    service: ScriptedService, client: AsyncClient
) -> None:
    wait = problem(429, "rate_limited", retryable=True, headers={"retry-after": "3600"})
    service.will_answer(wait)
    with pytest.raises(sdk.RateLimited) as caught:
        await client.reserve("acme", 1)
    assert caught.value.retry_after_s == 3600.0
    assert len(service.asked) == 1


def test_waits_grow_to_their_bound_above_what_was_asked_for() -> None:
    backoff = Backoff(retries=10, base_s=1.0, cap_s=4.0)

    def error(retry_after_s: float | None) -> HoldfastError:
        return HoldfastError("", code="x", retryable=True, retry_after_s=retry_after_s)

    for repeats, bound in ((0, 1.0), (1, 2.0), (2, 4.0), (9, 4.0)):
        waits = [backoff.wait_s(repeats, error(None)) for _ in range(200)]
        assert all(wait is not None and 0 <= wait <= bound for wait in waits)
        assert max(wait or 0 for wait in waits) > bound / 2
        asked = backoff.wait_s(repeats, error(10.0))
        assert asked is not None
        assert 10.0 <= asked <= 10.0 + bound
    assert backoff.wait_s(10, error(None)) is None
    assert backoff.wait_s(0, HoldfastError("", code="x")) is None


# -- a hold around a block ----------------------------------------------------------------------


def _ends(service: ScriptedService) -> list[tuple[str, object]]:
    return [(each.path.rsplit("/", 1)[-1], each.body) for each in service.asked[1:]]


async def test_a_block_commits_what_it_said(service: ScriptedService, client: AsyncClient) -> None:
    async with client.hold("acme", 40, key="job-1", durability="local", model="m") as hold:
        assert (hold.id, hold.amount) == ("job-1", 40)
        hold.commit(99)
        hold.commit(13)
    assert _ends(service) == [("commit", {"amount": 13, "on_shortfall": "cap"})]
    assert service.asked[0].body["usage"] == {"model": "m"}
    assert service.asked[1].headers["holdfast-durability"] == "local"
    assert hold.result is not None
    assert hold.result.state == "committed"


async def test_a_block_that_said_nothing_commits_the_estimate(
    service: ScriptedService, client: AsyncClient
) -> None:
    async with client.hold("acme", 40, on_shortfall="debt"):
        pass
    assert _ends(service) == [("commit", {"on_shortfall": "debt"})]


async def test_a_block_that_fails_releases(service: ScriptedService, client: AsyncClient) -> None:
    with pytest.raises(LookupError):
        async with client.hold("acme", 40):
            raise LookupError("no such model")
    assert _ends(service) == [("release", {"reason": "LookupError"})]


async def test_a_block_that_fails_after_it_named_the_cost_commits(
    service: ScriptedService, client: AsyncClient
) -> None:
    with pytest.raises(LookupError):
        async with client.hold("acme", 40) as hold:
            hold.commit(13)
            raise LookupError("the caller has gone")
    assert _ends(service) == [("commit", {"amount": 13, "on_shortfall": "cap"})]


async def test_a_block_can_release(service: ScriptedService, client: AsyncClient) -> None:
    async with client.hold("acme", 40) as hold:
        hold.release("from the cache")
    assert _ends(service) == [("release", {"reason": "from the cache"})]


async def test_a_denied_hold_does_not_run_the_block(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.will_answer(problem(402, "insufficient_credits"))
    ran = False
    with pytest.raises(sdk.InsufficientCredits):
        async with client.hold("acme", 40):
            ran = True
    assert not ran
    assert len(service.asked) == 1


async def test_a_release_that_fails_does_not_hide_why_the_block_failed(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.will_answer(Reply(201, hold_answer()), problem(409, "hold_committed"))
    with pytest.raises(LookupError) as caught:
        async with client.hold("acme", 40):
            raise LookupError("no such model")
    (note,) = caught.value.__notes__
    assert "job-1" in note
    assert "hold_committed" in note


async def test_a_commit_that_fails_is_the_blocks_error(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.will_answer(Reply(201, hold_answer()), problem(402, "commit_exceeds_funds"))
    with pytest.raises(sdk.CommitExceedsFunds):
        async with client.hold("acme", 40) as hold:
            hold.commit(50, on_shortfall="reject")
    assert service.asked[1].body == {"amount": 50, "on_shortfall": "reject"}


async def test_a_cancelled_block_releases(service: ScriptedService, client: AsyncClient) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with client.hold("acme", 40):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert _ends(service) == [("release", {"reason": "CancelledError"})]


async def test_a_caller_cancelled_during_the_commit_still_commits(service: ScriptedService) -> None:
    service.on_ask = lambda asked: (
        problem(503, "overloaded", retryable=True)
        if asked.path.endswith("/commit") and len(service.asked) < 4
        else None
    )
    async with AsyncClient(service.url, "k", retries=Backoff(base_s=0.05)) as client:

        async def work() -> None:
            async with client.hold("acme", 40) as hold:
                hold.commit(13)

        task = asyncio.create_task(work())
        await asyncio.to_thread(service.wait_for, 1, "/commit")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert _ends(service) == [("commit", {"amount": 13, "on_shortfall": "cap"})] * 3


async def test_a_hold_is_kept_alive_while_its_block_runs(
    service: ScriptedService, client: AsyncClient
) -> None:
    async with client.hold("acme", 40, ttl_seconds=1, keep_alive=True) as hold:
        await asyncio.to_thread(service.wait_for, 2, "/extend")
        hold.commit(13)
    assert hold.result is not None
    beats, last = _ends(service)[:-1], _ends(service)[-1]
    assert set(map(str, beats)) == {str(("extend", {"ttl_seconds": 1}))}
    assert last == ("commit", {"amount": 13, "on_shortfall": "cap"})


async def test_a_hold_that_is_over_is_not_kept_alive(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.on_ask = lambda asked: (
        problem(409, "hold_expired") if asked.path.endswith("/extend") else None
    )
    async with client.hold("acme", 40, ttl_seconds=1, keep_alive=True) as hold:
        await asyncio.to_thread(service.wait_for, 1, "/extend")
        assert hold._beating is not None
        await asyncio.wait_for(asyncio.shield(hold._beating), 20)
        hold.commit(13)
    assert [each for each, _ in _ends(service)] == ["extend", "commit"]


def test_the_blocking_client_does_the_same(service: ScriptedService, blocking: Client) -> None:
    with blocking.hold("acme", 40, key="job-1") as hold:
        hold.commit(13)
    assert _ends(service) == [("commit", {"amount": 13, "on_shortfall": "cap"})]
    assert hold.result is not None

    service.asked.clear()
    with pytest.raises(LookupError), blocking.hold("acme", 40):
        raise LookupError("no such model")
    assert _ends(service) == [("release", {"reason": "LookupError"})]

    service.asked.clear()
    with blocking.hold("acme", 40, ttl_seconds=1, keep_alive=True) as hold:
        service.wait_for(2, "/extend")
        hold.commit(13)
    ends = _ends(service)
    assert ends.count(("commit", {"amount": 13, "on_shortfall": "cap"})) == 1
    assert ends.count(("extend", {"ttl_seconds": 1})) == len(ends) - 1


# -- the package --------------------------------------------------------------------------------


def test_the_client_needs_nothing_of_the_server() -> None:
    code = (
        "import sys, holdfast.client\n"
        "print(*sorted(each for each in sys.modules if each.startswith('holdfast')\n"
        "  and not each.startswith('holdfast.client')))\n"
        "print(*sorted({'pydantic', 'starlette', 'uvicorn', 'redis', 'asyncpg', 'orjson', 'rich',\n"
        "  'typer', 'httptools'} & sys.modules.keys()))\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == ["holdfast", ""]


def test_both_clients_offer_the_same() -> None:
    def offered(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert offered(AsyncClient) - offered(Client) == {"aclose", "finish"}
    assert offered(Client) - offered(AsyncClient) == {"close"}
