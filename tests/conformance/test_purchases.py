"""Purchases over HTTP: conformance scenarios 46 and 47, and what they leave open."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from holdfast.ledger import Ledger
from tests.conformance.drivers import HttpDriver, Outcome
from tests.conformance.world import World


async def buy(
    http: HttpDriver, account: str, payment: str, amount: int = 100, /, **more: Any
) -> Outcome:
    body = {"source": "purchase", "payment": {"provider": "stripe", "id": payment}} | more
    return await http.grant(account, amount, **body)


async def test_46_a_purchase_that_is_repeated_is_applied_once(
    http: HttpDriver, world: World
) -> None:
    account = await world.account(http, 0)
    unknown = 0

    async def told() -> Outcome:
        """Told until it is known what came of it: a hundred at once may keep Postgres busy."""
        nonlocal unknown
        for _ in range(20):
            outcome = await buy(http, account, f"pi_{account}")
            if outcome.status != 503:
                break
            unknown += 1
        return outcome

    outcomes = await asyncio.gather(*[told() for _ in range(100)])
    found = Counter((o.status, o.outcome) for o in outcomes)
    assert set(found) <= {(201, "applied"), (200, "replay")}
    # The one that applied it may be the one that was not told so.
    assert found[201, "applied"] == 1 or (unknown and not found[201, "applied"])
    assert {(o.id, o.amount, o.source) for o in outcomes} == {
        (f"purchase:stripe:pi_{account}", 100, "purchase")
    }
    assert (await http.account(account)).funds == (100, 0)
    assert [e["type"] for e in await world.entries(account)] == ["open", "grant"]


async def test_46_the_payment_counts_and_not_the_key(http: HttpDriver, world: World) -> None:
    account = await world.account(http, 0)
    first = await buy(http, account, f"pi_{account}", key="k1")
    assert (first.status, first.outcome, first.replayed) == (201, "applied", False)
    async with world.unchanged(account):
        again = await buy(http, account, f"pi_{account}", key="k2")
        assert (again.status, again.outcome, again.replayed) == (200, "replay", True)
        assert (again.id, again.version, again.funds) == (first.id, first.version, first.funds)
    await world.settle()
    await world.forget(account)  # all that Redis knew of it
    later = await buy(http, account, f"pi_{account}", key="k3")
    assert (later.status, later.outcome, later.funds) == (200, "replay", (100, 0))
    assert (await buy(http, account, f"pi_{account}_2", key="k1")).outcome == "applied"
    assert (await http.account(account)).funds == (200, 0)


async def test_47_a_payment_with_another_content_is_refused(
    http: HttpDriver, inner: Ledger, world: World
) -> None:
    account, other = await world.account(http, 0), await world.account(http, 0)
    payment = f"pi_{account}"
    await buy(http, account, payment)
    at = "2031-01-01T00:00:00Z"
    async with world.unchanged(account), world.unchanged(other):
        for refused in (
            await buy(http, account, payment, 101),
            await buy(http, other, payment),
            await buy(http, account, payment, expires_at=at),
            await buy(http, account, payment, priority=1),
        ):
            assert (refused.status, refused.code) == (409, "payment_duplicate")
        assert (await buy(http, account, payment)).outcome == "replay"
    assert (await http.account(account)).funds == (100, 0)
    (stored,) = await inner.pool.fetch("SELECT * FROM purchase WHERE payment = $1", payment)
    assert (stored["account"], stored["amount"], stored["repeats"]) == (account, 100, 1)
    (owed,) = await inner.pool.fetch("SELECT * FROM outbox WHERE key = $1", stored["key"])
    assert (owed["account"], owed["amount"]) == (account, 100)

    query = f"/v1/admin/audit?account={account}"
    rows = (await http.raw("GET", query, None)).body["data"]
    found = [row for row in rows if row["action"] == "purchase.duplicate"]
    assert [row["after"]["amount"] for row in found] == [100, 100, 101]
    assert {row["subject"] for row in found} == {f"payment:stripe:{payment}"}
    assert found[0]["before"] == {"account": account, "amount": 100, "priority": 0}
    assert found[0]["actor"].startswith("key:")


async def test_a_refused_purchase_can_be_made_right(http: HttpDriver, world: World) -> None:
    """Given a payment that named no account, If it is told again with the right one, I expect it
    to be applied, and the first one never."""
    account = await world.account(http, 0)
    wrong, payment = world.name(), f"pi_{account}"
    await world.settle()
    refused = await buy(http, wrong, payment)
    assert (refused.status, refused.code) == (404, "account_not_found")
    await world.account(http, 0)
    mended = await buy(http, account, payment, 150)
    assert (mended.status, mended.outcome, mended.funds) == (201, "applied", (150, 0))
    again = await buy(http, account, payment, 150)
    assert (again.status, again.outcome) == (200, "replay")
    assert (await buy(http, wrong, payment)).code == "payment_duplicate"


async def test_no_purchase_is_refused_for_the_number_of_grants(
    http: HttpDriver, world: World
) -> None:
    account = await world.account(http, 0)
    for number in range(18):
        await world.settle()
        at = f"20{31 + number}-01-01T00:00:00Z"
        bought = await buy(http, account, f"pi_{account}_{number}", 10, expires_at=at)
        assert bought.status == 201
    answer = await http.account(account)
    assert (answer.funds, len(answer.grants)) == ((180, 0), 16)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"source": "promo"}, "source"),
        ({"payment": {"provider": "Stripe", "id": "x"}}, "payment.provider"),
        ({"payment": {"provider": "stripe", "id": ""}}, "payment.id"),
        ({"payment": {"provider": "stripe", "id": "a b"}}, "payment.id"),
        ({"payment": {"provider": "stripe"}}, "payment.id"),
        ({"payment": "pi_1"}, "payment"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
    ],
)
async def test_what_is_no_purchase(
    http: HttpDriver, world: World, more: dict[str, Any], field: str
) -> None:
    account = await world.account(http, 0)
    async with world.unchanged(account):
        refused = await buy(http, account, f"pi_{account}", **more)
        assert (refused.status, refused.code) == (422, "invalid_request")
        assert refused.errors[0]["field"] == field
    body = b'{"amount": 1, "payment": {"provider": "stripe", "id": "x"}}'
    keyless = await http.raw("POST", f"/v1/accounts/{account}/grants", body)
    assert (keyless.status, keyless.code) == (400, "idempotency_key_missing")


async def test_the_payment_may_be_called_anything(http: HttpDriver, world: World) -> None:
    account = await world.account(http, 0)
    named = await buy(http, account, f"a/b+{account}" + "x" * 200)
    assert (named.status, named.id.rpartition(":")[0]) == (201, "purchase-sha256:stripe")
