"""Trials over real stores: one grant each, bounded by it, as callers and operators see them."""

import asyncio
import contextlib
import io
import json
import re
import shlex
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx2
import pytest
import pytest_asyncio

from holdfast import api_keys, cli, doctor, trials
from holdfast.embedded import Postgres, Valkey
from holdfast.errors import Conflict, InsufficientCredits, InvalidRequest, UnknownAccount
from tests.api import logged_in, serving
from tests.sources import ROOT
from tests.trial_world import BY, CONTEXT, World, buy, closed, opened
from tests.vetted import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[World]:
    async with opened(valkey_server.url, postgres_server.url) as world:
        yield world


# ── one trial, one grant ─────────────────────────────────────────────────────────────────────────


async def test_many_who_start_it_at_once_start_it_once(world: World) -> None:
    account = await world.open()
    asked = [trials.start(world.ledger, account, 700, by=BY) for _ in range(8)]
    answers = await asyncio.gather(*asked)
    assert sorted(new for _, new in answers) == [False] * 7 + [True]
    assert {(trial.state, trial.spending_limit) for trial, _ in answers} == {("active", 700)}
    await world.granted(account, 700)
    assert len(await world.stack.rows("outbox", account=account)) == 1
    assert await world.audited(account) == ["trial.start"]
    with pytest.raises(Conflict, match="another spending_limit") as refusal:
        await trials.start(world.ledger, account, 701, by=BY)
    assert refusal.value.code == "trial_used"
    later = datetime.now(UTC) + timedelta(days=1)
    with pytest.raises(Conflict, match="another expires_at"):
        await trials.start(world.ledger, account, 700, expires_at=later, by=BY)


async def test_one_that_is_over_is_not_started_again(world: World) -> None:
    account = await world.open()
    await world.start(account, 50)
    ended = await trials.end(world.ledger.pool, account, reason="abuse", by=BY)
    assert (ended.state, ended.ended_by, ended.reason) == ("ended", BY.actor, "abuse")
    assert await trials.end(world.ledger.pool, account, reason="other", by=BY) == ended
    again, new = await trials.start(world.ledger, account, 50, by=BY)
    assert (again.state, new) == ("ended", False)
    await world.granted(account, 50)
    assert await world.audited(account) == ["trial.start", "trial.end"]
    await world.ledger.put_account(account, {"overdraft_limit": 5}, context=CONTEXT)
    await world.look()
    assert (await trials.find(world.ledger.pool, account)).state == "ended"


async def test_what_cannot_be_a_trial_is_refused(world: World) -> None:
    account = await world.open()
    past = datetime.now(UTC) - timedelta(seconds=1)
    with pytest.raises(InvalidRequest, match="future"):
        await trials.start(world.ledger, account, 5, expires_at=past, by=BY)
    for limit in (0, -1, 9 * 10**15 + 1):
        with pytest.raises(InvalidRequest, match="amount"):
            await trials.start(world.ledger, account, limit, by=BY)
    with pytest.raises(UnknownAccount):
        await trials.start(world.ledger, "trial:nobody", 5, by=BY)
    await world.ledger.put_account(account, {"status": "closed"}, context=CONTEXT)
    with pytest.raises(Conflict) as refusal:
        await trials.start(world.ledger, account, 5, by=BY)
    assert refusal.value.code == "account_closed"
    assert await world.stack.rows("trial", account=account) == []
    assert await world.stack.rows("outbox", account=account) == []


async def test_who_is_cut_off_in_the_middle_has_started_nothing(world: World) -> None:
    """Given a start that ends between the trial and its grant, I expect neither; then both."""
    account = await world.open()
    async with closed(world, "outbox") as somebody_waits:
        start = asyncio.create_task(trials.start(world.ledger, account, 90, by=BY))
        await somebody_waits()
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)
    assert await world.stack.rows("trial", account=account) == []
    await world.start(account, 90)
    await world.granted(account, 90)


async def test_nothing_is_spent_beyond_the_limit(world: World) -> None:
    """Given a limit of 1000 and 30 reserves of 100 at once, I expect 10, and 402 for the rest."""
    account = await world.open()
    await world.start(account)
    await world.granted(account, 1000)

    async def reserve(number: int) -> bool:
        try:
            await world.ledger.reserve(account, f"h{number}", amount=100, context=CONTEXT)
        except InsufficientCredits:
            return False
        return True

    assert sum(await asyncio.gather(*map(reserve, range(30)))) == 10
    assert (await world.ledger.get_account(account)).available == 0


# ── what operators and callers see ───────────────────────────────────────────────────────────────


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(world: World) -> AsyncIterator[str]:
    async with serving(world.stack) as url:
        yield url


async def test_the_third_within_a_day_is_an_alert(world: World, url: str) -> None:
    async def seen() -> tuple[float, str, str]:
        async with httpx2.AsyncClient(base_url=url) as client:
            lines = (await client.get("/metrics")).text.splitlines()
        name = "holdfast_trials_overridden_recent "
        [value] = [float(line.split()[-1]) for line in lines if line.startswith(name)]
        [check] = [c for c in await doctor.examine(world.stack.config) if c.name == "trials"]
        return value, check.level, check.found + check.mend

    await world.stack.pool.execute(
        "UPDATE trial SET ended_at = ended_at - interval '1 day' WHERE state = 'overridden'"
    )
    for number in range(3):
        value, level, said = await seen()
        assert (value, level) == (number, "ok")
        account = await world.open()
        await world.start(account)
        await buy(world, account)
        await world.ended(account)
    value, level, said = await seen()
    assert (value, level) == (3, "warn")
    assert said.startswith("3 overridden")
    assert "holdfast trial list --state overridden" in said


async def test_a_trial_over_http(world: World, url: str) -> None:
    account = await world.open()
    path = f"/v1/accounts/{account}/trial"
    body = {"spending_limit": 500, "expires_at": "2999-01-31T00:00:00Z"}
    async with logged_in(world.stack, url) as (key, client):
        assert (await client.get(path)).json()["code"] == "not_found"
        made = await client.put(path, json=body)
        assert (made.status_code, made.json()["granted"]) == (201, "pending")
        await world.granted(account, 500)
        again = await client.put(path, json=body)
        assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")

        async def applied() -> bool:
            return bool((await client.get(path)).json()["granted"] == "applied")

        await until(applied)
        other = await client.put(path, json={"spending_limit": 500})
        assert (other.status_code, other.json()["code"]) == (409, "trial_used")
        assert other.json()["field"] == "expires_at"
        for wrong in ({}, {"spending_limit": 0}, {"spending_limit": "5"}, {**body, "more": 1}):
            assert (await client.put(path, json=wrong)).status_code == 422
        listed = (await client.get("/v1/admin/trials?state=active&limit=1000")).json()["data"]
        assert account in [each["account"] for each in listed]
        first = (await client.get("/v1/admin/trials?limit=1")).json()
        second = (await client.get(f"/v1/admin/trials?limit=1&after={first['next']}")).json()
        assert first["data"][0]["account"] < second["data"][0]["account"]
        ended = (await client.delete(path, params={"reason": "asked for"})).json()
        assert (ended["state"], ended["ended_by"]) == ("ended", f"key:{key}")
        assert (ended["reason"], ended["signs"]) == ("asked for", [])
        assert ended == (await client.get(path)).json()
        listed = (await client.get("/v1/admin/trials?state=active&limit=1000")).json()["data"]
        assert account not in [each["account"] for each in listed]
        payer = await world.open()
        await buy(world, payer)
        refused = await client.put(f"/v1/accounts/{payer}/trial", json={"spending_limit": 5})
        assert (refused.status_code, refused.json()["code"]) == (409, "trial_refused")
        assert refused.json()["signs"] == ["purchase"]
    async with logged_in(world.stack, url, "read", "spend", "credit") as (_, client):
        assert (await client.get(path)).status_code == 200
        assert (await client.put(path, json=body)).status_code == 403
        assert (await client.delete(path)).status_code == 403
        assert (await client.get("/v1/admin/trials")).status_code == 403
    async with logged_in(world.stack, url, accounts="other*") as (_, client):
        assert (await client.get(path)).status_code == 404
        assert (await client.put(path, json=body)).status_code == 404
        assert (await client.get("/v1/admin/trials")).status_code == 403


async def command(world: World, url: str, *words: str) -> str:
    """What a command of `holdfast` prints, run in a thread of this process."""
    _, token = await api_keys.create(world.stack.pool, "cli", api_keys.SCOPES)
    out = io.StringIO()

    def run() -> int:
        with contextlib.redirect_stdout(out):
            return cli.main((*words, "--url", url, "--api-key", token))

    assert await asyncio.to_thread(run) == 0, words
    return out.getvalue()


async def test_a_trial_by_command(world: World, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    account = await world.open()
    assert "2.000000" in await command(world, url, "trial", "start", account, "2cr")
    shown = json.loads(await command(world, url, "trial", "show", account, "--json"))
    assert (shown["state"], shown["spending_limit"]) == ("active", 2_000_000)
    payer = await world.open()
    await world.start(payer)
    await command(world, url, "plan", "put", "cli-paid", "--paid")
    assert "yes" in await command(world, url, "plan", "show", "cli-paid")
    await command(world, url, "account", "set", payer, "--plan", "cli-paid")
    await world.ended(payer)
    over = ("--state", "overridden", "--limit", "1000")
    listed = await command(world, url, "trial", "list", *over)
    assert "paid_plan" in listed
    assert account not in listed


async def test_what_the_page_shows_can_be_done(world: World, url: str) -> None:
    page = (ROOT / "docs" / "trials.md").read_text(encoding="utf-8")
    block = re.search(r"^```\n(holdfast account.*?)^```", page, re.M | re.S)
    assert block is not None
    said = [await command(world, url, *shlex.split(line)[1:]) for line in block[1].splitlines()]
    assert len(said) == 5
    assert "active" in said[2]
    assert "acme" in said[3]
    assert "signed up twice" in said[4]
