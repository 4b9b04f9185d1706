"""Money coming in: many processes with one payment, Stripe's events, Redis away."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio
import stripe

from holdfast import api_keys
from holdfast.children import free_port
from holdfast.embedded import Postgres, Valkey
from holdfast.ledger import Ledger, open_ledger
from settlement.outbox import Outbox
from settlement.take_backs import TakeBacks
from tests.commands import assert_reconciled, command, outcome
from tests.conformance.drivers import HttpDriver, Outcome
from tests.stack import Stack
from tests.vetted import settle_all, until

SECRET = "whsec_test"
CREDITS = 5_000_000
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Shop:
    """A service with its stores, a settlement that is done by hand, and a Stripe that signs."""

    def __init__(self, stack: Stack, http: HttpDriver, ledger: Ledger, url: str, key: str) -> None:
        self.stack, self.http, self.url, self.key = stack, http, url, key
        self.outbox = Outbox(stack.pool, ledger)
        self.take_backs = TakeBacks(stack.pool)

    async def finish(self) -> None:
        """All that a worker would do with what came in."""
        for _ in range(4):  # apply, look, take back, look
            await self.stack.renew_leases()
            await self.stack.pool.execute("UPDATE outbox SET next_try_at = created_at")
            await self.outbox.turn()
            await settle_all(self.stack)
            await self.take_backs.round()

    async def tell(self, event: dict[str, Any], secret: str = SECRET) -> Outcome:
        """Send an event as Stripe does: signed, and without an API key."""
        body = json.dumps(event)
        signature = stripe.WebhookSignature.generate_signature_header(body, secret)
        async with httpx2.AsyncClient(base_url=self.url, timeout=10) as client:
            reply = await client.post(
                "/v1/webhooks/stripe", content=body, headers={"Stripe-Signature": signature}
            )
        replayed = reply.headers.get("Idempotency-Replayed") == "true"
        return Outcome(reply.status_code, reply.json(), replayed)

    async def funds(self, account: str) -> int:
        answer = await self.http.account(account)
        return int(answer.body["available"])

    async def rows(self, table: str, account: str) -> list[dict[str, Any]]:
        return await self.stack.rows(table, account=account)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Shop]:
    async with Stack(valkey_server.url, postgres_server.url, shards=1) as stack:
        _, token = await api_keys.create(stack.pool, "shop", api_keys.SCOPES)
        port = free_port()
        words = ("holdfast", "serve", "--port", str(port), "--workers", "2")
        ledger = await open_ledger(stack.config)
        async with command(stack, *words, stripe_webhook_secret=SECRET) as running:
            http = HttpDriver(f"http://127.0.0.1:{port}", token)

            async def ready() -> bool:
                assert running.returncode is None, "the service has ended"
                try:
                    await http.ready()
                except httpx2.TransportError:  # it does not listen yet
                    return False
                return True

            await until(ready)
            yield Shop(stack, http, ledger, f"http://127.0.0.1:{port}", token)
            await http.close()
            running.terminate()
            await asyncio.wait_for(running.wait(), 20)
        await ledger.close()


def paid(account: str | None, number: str, **changes: Any) -> dict[str, Any]:
    session = {
        "id": f"cs_{number}",
        "mode": "payment",
        "payment_status": "paid",
        "payment_intent": f"pi_{number}",
        "amount_total": 1000,
        "currency": "usd",
        "metadata": {"account": account, "credits": str(CREDITS)},
    }
    about = {"object": session | changes}
    return {"id": f"evt_paid_{number}", "type": "checkout.session.completed", "data": about}


def refunded(number: str, back: int, name: str = "") -> dict[str, Any]:
    charge = {"payment_intent": f"pi_{number}", "amount": 1000, "amount_refunded": back}
    return {
        "id": f"evt_refund_{number}_{name or back}",
        "type": "charge.refunded",
        "data": {"object": charge},
    }


def disputed(number: str, back: int) -> dict[str, Any]:
    dispute = {"payment_intent": f"pi_{number}", "amount": back}
    return {
        "id": f"evt_dispute_{number}",
        "type": "charge.dispute.created",
        "data": {"object": dispute},
    }


async def test_many_processes_with_one_payment(shop: Shop) -> None:
    """Given a payment that was made, If five processes tell of it a hundred times at once, two
    service processes answering, I expect it to be applied once and 99 replays."""
    await shop.http.open("raced")
    body = {"source": "purchase", "payment": {"provider": "stripe", "id": "pi_raced"}}
    races = [
        [("grant", ["raced", 100, f"k-{p}-{n}"], body) for n in range(20)] for p in range(5)
    ]  # each under a key of its own: the payment alone counts
    code, printed, said = await outcome(
        shop.stack, "tests.racers", shop.url, json.dumps(races), shop.key
    )
    assert code == 0, said
    statuses = Counter(status for line in printed.splitlines() for status, _ in json.loads(line))
    assert statuses == {201: 1, 200: 99}
    assert await shop.funds("raced") == 100
    await shop.finish()
    (bought,) = await shop.rows("purchase", "raced")
    assert (bought["repeats"], bought["refused"]) == (99, False)
    assert [row["state"] for row in await shop.rows("outbox", "raced")] == ["applied"]
    assert len(await shop.stack.rows("journal", account="raced", type="grant")) == 1


async def test_stripe_pays_once(shop: Shop) -> None:
    await shop.http.open("paying")
    first = await shop.tell(paid("paying", "1"))
    assert (first.status, first.body, first.replayed) == (
        *(200, {"event": "evt_paid_1", "state": "applied"}),
        False,
    )
    again = await asyncio.gather(*(shop.tell(paid("paying", "1")) for _ in range(5)))
    assert {(each.status, each.state, each.replayed) for each in again} == {(200, "applied", True)}
    # Another event and a backend of ours may tell of the same payment.
    late = paid("paying", "1") | {"id": "evt_late", "type": "checkout.session.completed"}
    assert (await shop.tell(late)).state == "applied"
    body = {"payment": {"provider": "stripe", "id": "pi_1"}}
    told = await shop.http.grant("paying", CREDITS, "k", **body)
    assert (told.status, told.outcome) == (200, "replay")
    await shop.finish()
    assert await shop.funds("paying") == CREDITS
    (bought,) = await shop.rows("purchase", "paying")
    assert (bought["paid"], bought["currency"]) == (1000, "usd")


async def test_a_signature_that_is_wrong(shop: Shop) -> None:
    await shop.http.open("forged")
    refused = await shop.tell(paid("forged", "f"), "whsec_other")
    assert (refused.status, refused.code) == (400, "signature_invalid")
    bare = await shop.http.raw("POST", "/v1/webhooks/stripe", b"{}")
    assert (bare.status, bare.code) == (400, "signature_invalid")
    async with httpx2.AsyncClient(base_url=shop.url, timeout=10) as client:
        header = (b"Stripe-Signature", b"t=1,v1=\xe9")
        odd = await client.post("/v1/webhooks/stripe", content=b"{}", headers=[header])
    assert (odd.status_code, odd.json()["code"]) == (400, "signature_invalid")
    assert await shop.rows("payment_event", "forged") == []


async def test_refunds_take_back_their_share_once(shop: Shop) -> None:
    """Given a purchase, If events of refunds come twice and in the wrong order, I expect what they
    say together to be taken once, as debt where it was spent."""
    await shop.http.open("returning")
    await shop.tell(paid("returning", "2"))
    await shop.finish()
    await shop.http.charge("returning", "c1", amount=CREDITS)
    for event in (refunded("2", 500), refunded("2", 250), refunded("2", 500)):
        assert (await shop.tell(event)).state == "received"
    await shop.finish()
    assert await shop.funds("returning") == -CREDITS // 2
    assert (await shop.tell(refunded("2", 250))).state == "applied"
    await shop.tell(disputed("2", 1000))
    await shop.finish()
    answer = await shop.http.account("returning")
    assert (answer.available, answer.debt, answer.granted) == (-CREDITS, CREDITS, 0)
    (bought,) = await shop.rows("purchase", "returning")
    assert (bought["refunded"], bought["disputed"]) == (CREDITS // 2, CREDITS // 2)
    audited = await shop.stack.rows("audit", actor="stripe", account="returning")
    assert Counter(row["action"] for row in audited) == {
        "purchase.record": 1,
        "purchase.refund": 2,
        "purchase.dispute": 1,
    }


async def test_a_refund_before_its_purchase_waits_for_it(shop: Shop) -> None:
    await shop.http.open("early")
    assert (await shop.tell(refunded("3", 1000))).state == "received"
    await shop.finish()
    assert await shop.funds("early") == 0
    await shop.tell(paid("early", "3"))
    await shop.finish()
    answer = await shop.http.account("early")
    assert (answer.available, answer.granted) == (0, 0)
    kinds = [row["type"] for row in await shop.stack.rows("journal", account="early")]
    assert kinds == ["open", "grant", "adjust"]


async def test_an_event_that_is_refused_holds_up_no_other(shop: Shop) -> None:
    """Given an event whose key in the outbox is taken, If others wait as well, I expect those to
    be acted upon, and this one to be for review."""
    await shop.http.open("mixed")
    for number in ("m1", "m2"):
        await shop.tell(paid("mixed", number))
        await shop.finish()
    key = "refund:stripe:evt_refund_m1_1000"
    await shop.stack.pool.execute(
        "INSERT INTO outbox (kind, account, key, origin, amount, source)"
        " VALUES ('adjust', 'mixed', $1, 'a mistake', -1, 'adjustment')",
        key,
    )
    await shop.tell(refunded("m1", 1000))
    await shop.tell(refunded("m2", 1000))
    await shop.finish()
    (refused,) = await shop.stack.rows("payment_event", id="evt_refund_m1_1000")
    assert (refused["state"], "acted upon before" in refused["error"]) == ("review", True)
    assert await shop.funds("mixed") == CREDITS - 1
    assert [row["refunded"] for row in await shop.rows("purchase", "mixed")] == [0, CREDITS]


async def test_an_account_that_nobody_opened_is_for_review(shop: Shop) -> None:
    await shop.tell(paid("later", "4"))
    await shop.finish()
    listed = await shop.stack.rows("payment_event", state="review", account="later")
    assert [row["error"].partition(":")[0] for row in listed] == ["account_not_found"]
    await shop.http.open("later")
    code, printed, said = await outcome(
        shop.stack, "holdfast", "payment", "retry", "stripe:evt_paid_4", "--json"
    )
    assert code == 0, said
    assert json.loads(printed)["state"] == "applied"
    await shop.finish()
    assert await shop.funds("later") == CREDITS
    assert await shop.stack.rows("payment_event", state="review", account="later") == []


@pytest.mark.parametrize(
    ("number", "changes", "why"),
    [
        ("5", {"metadata": {}}, "names no account"),
        ("6", {"metadata": {"account": "a b", "credits": "1"}}, "names no account"),
        ("7", {"metadata": {"account": "acme", "credits": "1.5"}}, "microcredits"),
    ],
)
async def test_what_cannot_be_understood_is_for_review(
    shop: Shop, number: str, changes: dict[str, Any], why: str
) -> None:
    assert (await shop.tell(paid(None, number, **changes))).state == "review"
    (kept,) = await shop.stack.rows("payment_event", id=f"evt_paid_{number}")
    assert why in kept["error"]


async def test_another_content_is_for_review_and_other_events_are_ignored(shop: Shop) -> None:
    await shop.http.open("twice")
    await shop.tell(paid("twice", "8"))
    other = paid("twice", "8", metadata={"account": "twice", "credits": "7"}) | {"id": "evt_other"}
    assert (await shop.tell(other)).state == "review"
    ignored = {"id": "evt_customer", "type": "customer.created", "data": {"object": {}}}
    assert (await shop.tell(ignored)).state == "ignored"
    await shop.finish()
    assert await shop.funds("twice") == CREDITS
    audited = await shop.stack.rows("audit", action="purchase.duplicate", account="twice")
    assert [row["actor"] for row in audited] == ["stripe"]


async def test_operators_see_what_waits_and_the_stores_agree(shop: Shop) -> None:
    for words in (("payment", "list", "--state", "review"), ("outbox", "list", "--limit", "2")):
        code, printed, said = await outcome(shop.stack, "holdfast", *words, "--json")
        assert code == 0, said
        assert json.loads(printed)["data"]
    code, _, said = await outcome(shop.stack, "holdfast", "outbox", "retry", "1")
    assert (code, "no row 1 of the outbox has failed" in said) == (1, True)
    words = ("grant", "raced", "100", "--payment", "stripe:pi_raced", "--json")
    where = {"url": shop.url, "api_key": shop.key}
    code, printed, said = await outcome(shop.stack, "holdfast", *words, **where)
    assert code == 0, said
    assert json.loads(printed)["outcome"] == "replay"
    await assert_reconciled(shop.stack)


async def test_a_purchase_while_redis_is_closed_is_finished_later(shop: Shop) -> None:
    """Given a Redis that takes nothing new, If a purchase is told, I expect 503 `outcome_unknown`,
    and the outbox to apply it once when Redis takes it. The last test: it ends the leases."""
    await shop.http.open("closed")
    await shop.stack.stop_leases()
    await shop.stack.command("DEL", shop.stack.shards.keys[0].lease_new)
    body = {"payment": {"provider": "stripe", "id": "pi_closed"}}
    for _ in range(2):
        unknown = await shop.http.grant("closed", 70, "k", **body)
        assert (unknown.status, unknown.code) == (503, "outcome_unknown")
        assert "is recorded and will be applied" in unknown.detail
    assert await shop.funds("closed") == 0
    await shop.finish()
    assert await shop.funds("closed") == 70
    again = await shop.http.grant("closed", 70, "k", **body)
    assert (again.status, again.outcome, again.funds) == (200, "replay", (70, 0))
    assert [row["state"] for row in await shop.rows("outbox", "closed")] == ["applied"]
