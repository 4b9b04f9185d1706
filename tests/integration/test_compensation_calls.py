"""Compensations as callers and operators see them: HTTP, commands, metrics, doctor."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import redirect_stdout
from itertools import count
from typing import Any
from unittest import mock

import httpx2
import pytest
import pytest_asyncio

from holdfast import api_keys, cli, config, doctor
from holdfast.embedded import Postgres, Valkey
from holdfast.ledger import Ledger, open_ledger
from holdfast.postgres import Pool
from settlement.outbox import Outbox
from settlement.worker import SettleLoop
from tests.api import serving
from tests.commands import environment
from tests.owed import given, owe
from tests.sources import ROOT
from tests.stack import Stack
from tests.vetted import running, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
module_fixture: Callable[..., Any] = pytest_asyncio.fixture(scope="module", loop_scope="module")

_accounts = count(1)


@module_fixture
async def stack(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    async with Stack(valkey_server.url, postgres_server.url) as stack:
        yield stack


@module_fixture
async def ledger(stack: Stack) -> AsyncIterator[Ledger]:
    ledger = await open_ledger(stack.config)
    yield ledger
    await ledger.close()


@module_fixture
async def settling(stack: Stack, ledger: Ledger) -> AsyncIterator[None]:
    """A worker's settlement and outbox."""
    async with running(SettleLoop(stack.state).run(), Outbox(stack.pool, ledger).run()):
        yield


@pytest_asyncio.fixture(loop_scope="module")
async def pool(stack: Stack) -> AsyncIterator[Pool]:
    yield Pool(stack.pool)
    await stack.pool.execute("TRUNCATE compensation")


@pytest_asyncio.fixture(loop_scope="module")
async def account(stack: Stack, ledger: Ledger) -> str:
    """An account that had 100, of which a charge `c` took 40."""
    account = f"acme:{next(_accounts)}"
    await stack.open(account, grant=100)
    await stack.charge(account, "c", 40)
    return account


# ── over HTTP, and what an operator sees ─────────────────────────────────────────────────────────


@module_fixture
async def url(stack: Stack) -> AsyncIterator[str]:
    async with serving(stack) as url:
        yield url


async def login(stack: Stack, url: str, *scopes: str, accounts: str | None = None) -> Any:
    _, token = await api_keys.create(Pool(stack.pool), "test", scopes, accounts)
    headers = {"Authorization": f"Bearer {token}"}
    return httpx2.AsyncClient(base_url=url + "/v1/admin/", headers=headers, timeout=20)


async def test_over_http_from_what_is_owed_to_what_was_given(
    pool: Pool, stack: Stack, settling: None, url: str, account: str
) -> None:
    body = {"account": account, "origin": "job-1", "of": "c", "amount": 10, "reason": "it failed"}
    async with await login(stack, url, "credit") as client:
        made = await client.post("compensations", json=body)
        assert made.status_code == 201, made.text
        assert (made.json()["state"], made.json()["attempts"]) == ("pending", 0)
        assert made.json()["key"] == "compensation:job-1"
        other = await client.post("compensations", json=body | {"amount": 11})
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        assert other.json()["errors"][0]["field"] == "amount"

        done = (await client.post("compensations/run")).json()
        assert done.pop("applied") + done.pop("waiting") == 1
        assert done == {"tried": 1, "retries": 0, "failed": 0}

        async def applied() -> bool:
            await client.post("compensations/run")
            return (await client.post("compensations", json=body)).json()["state"] == "applied"

        await until(applied)
        again = await client.post("compensations", json=body)
        assert again.status_code == 200
        assert again.json()["id"] == made.json()["id"]
        assert again.json()["next_try_at"] is None
        found = (await client.get(f"compensations?account={account}&state=applied")).json()
        assert (found["data"], found["next"]) == ([again.json()], None)
        retried = await client.post(f"compensations/{made.json()['id']}/retry")
        assert (retried.status_code, retried.json()["state"]) == (200, "applied")
        for nothing in ("none", "999999"):
            missing = await client.post(f"compensations/{nothing}/retry")
            assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert await given(stack, account) == (10, 0)


async def test_pages_go_on_where_they_ended(
    pool: Pool, stack: Stack, url: str, account: str
) -> None:
    for number in range(3):
        await owe(pool, account, f"job-{number}")
    async with await login(stack, url, "admin") as client:
        first = (await client.get("compensations?limit=2")).json()
        rest = (await client.get(f"compensations?after={first['next']}")).json()
        assert [each["origin"] for each in first["data"] + rest["data"]] == [
            *("job-0", "job-1", "job-2")
        ]
        assert (await client.get("compensations?after=x")).status_code == 422
        assert (await client.get("compensations?state=done")).status_code == 422


async def test_a_key_sees_what_its_scopes_and_accounts_allow(
    pool: Pool, stack: Stack, url: str, account: str
) -> None:
    owed = await owe(pool, account)
    body = {"account": account, "origin": "x", "amount": 1, "reason": "why"}
    async with await login(stack, url, "read", "spend") as client:
        assert (await client.post("compensations", json=body)).status_code == 403
        assert (await client.get("compensations")).status_code == 403
    async with await login(stack, url, "credit", accounts="other*") as client:
        assert (await client.post("compensations", json=body)).status_code == 404
        assert (await client.post(f"compensations/{owed.id}/retry")).status_code == 404
        assert (await client.post("compensations/run")).status_code == 403
        for query in ("", f"?account={account}"):
            assert (await client.get(f"compensations{query}")).status_code == 403
        assert (await client.get("compensations?account=other-1")).json()["data"] == []


async def test_what_failed_is_seen_by_metrics_and_doctor(
    pool: Pool, stack: Stack, settling: None, url: str, account: str
) -> None:
    async def seen() -> tuple[dict[str, float], float, str]:
        async with httpx2.AsyncClient(base_url=url) as client:
            lines = (await client.get("/metrics")).text.splitlines()
        open_ = {
            line.split('"')[1]: float(line.split()[-1])
            for line in lines
            if line.startswith("holdfast_compensations_open{")
        }
        total = "holdfast_compensation_retries_total "
        [retries] = [line for line in lines if line.startswith(total)]
        found = await doctor.examine(stack.config)
        [check] = [each for each in found if each.name == "compensations"]
        return open_, float(retries.split()[-1]), check.level

    await owe(pool, account)
    assert await seen() == ({"pending": 1.0, "failed": 0.0}, 0.0, "ok")
    await stack.pool.execute("UPDATE compensation SET of = 'nothing', attempts = 1")
    async with await login(stack, url, "admin") as client:
        assert (await client.post("compensations/run")).json()["retries"] == 1
    assert await seen() == ({"pending": 0.0, "failed": 1.0}, 1.0, "warn")


async def command(stack: Stack, *words: str) -> Any:
    """What `holdfast compensation WORDS --json` prints, run in a thread of this process."""

    def run() -> tuple[int, str]:
        out = io.StringIO()
        with mock.patch.dict(os.environ, environment(stack), clear=True), redirect_stdout(out):
            config.load.cache_clear()  # which reads the environment once
            code = cli.main(("compensation", *words, "--json"))
        config.load.cache_clear()
        return code, out.getvalue()

    code, printed = await asyncio.to_thread(run)
    return json.loads(printed) if code == 0 else code


async def test_an_operator_does_it_all_by_command(
    pool: Pool, stack: Stack, settling: None, account: str
) -> None:
    told = ("--origin", "job-1", "--reason", "it failed", "--by", "ann")
    made = await command(stack, "add", account, "10", *told, "--of", "c")
    assert (made["state"], made["actor"], made["amount"]) == ("pending", "cli:ann", 10)
    assert (await command(stack, "add", account, "10", *told, "--of", "c"))["id"] == made["id"]
    assert await command(stack, "add", account, "11", *told) == 1
    assert (await command(stack, "run"))["tried"] == 1

    async def listed() -> bool:
        await command(stack, "run")
        found = await command(stack, "list", account, "--state", "applied")
        return [each["id"] for each in found["data"]] == [made["id"]]

    await until(listed)
    assert (await command(stack, "retry", str(made["id"])))["state"] == "applied"
    assert await command(stack, "retry", "999999") == 1
    assert await given(stack, account) == (10, 0)


async def test_what_the_page_shows_can_be_done(
    pool: Pool, stack: Stack, settling: None, url: str
) -> None:
    """Given the account and the charge of docs/compensations.md, I expect its request and its
    commands to be taken, and what both say to be one compensation."""
    page = (ROOT / "docs" / "compensations.md").read_text(encoding="utf-8")
    body = re.search(r"-d '(\{.*?\})'", page, re.S)
    block = re.search(r"^```\n(holdfast compensation.*?)^```", page, re.M | re.S)
    assert body is not None
    assert block is not None
    await stack.open("acme", grant=1_000_000)
    await stack.charge("acme", "charge-4711", 400_000)
    async with await login(stack, url, "credit") as client:
        made = await client.post("compensations", json=json.loads(body[1]))
        assert made.status_code == 201, made.text
    answers = {}
    for line in block[1].splitlines():
        words = shlex.split(line.replace("job-4711", "job-4712").replace("17", made_id(made)))
        answers[words[2]] = await command(stack, *words[2:])
    assert answers.keys() == {"add", "list", "retry", "run"}
    assert (answers["add"]["amount"], answers["add"]["of"]) == (250_000, "charge-4711")
    # The second asks for more than the charge has left.
    assert (answers["run"]["tried"], answers["run"]["failed"]) == (2, 1)
    assert (await given(stack, "acme"))[0] == 250_000


def made_id(made: Any) -> str:
    return str(made.json()["id"])
