"""What Stripe's events say, and how much of a purchase goes back."""

import json
from typing import Any

import pytest
import stripe

from holdfast.errors import MalformedJson, SignatureInvalid
from holdfast.payments import Event
from holdfast.stripe_events import TOLERANCE_S, read, verified
from settlement.take_backs import share

SECRET = "whsec_test"
SESSION = {
    "id": "cs_1",
    "mode": "payment",
    "payment_status": "paid",
    "payment_intent": "pi_1",
    "client_reference_id": "from-link",
    "amount_total": 1000,
    "currency": "usd",
    "metadata": {"account": "acme", "credits": "5000000"},
}


def event(kind: str, about: Any) -> bytes:
    return json.dumps({"id": "evt_1", "type": kind, "data": {"object": about}}).encode()


def session(**changes: Any) -> Event:
    return read(event("checkout.session.completed", SESSION | changes))


def test_a_paid_session_is_a_purchase() -> None:
    kinds = ("stripe", "evt_1", "checkout.session.completed", "purchase")
    expected = Event(
        *kinds, payment="pi_1", account="acme", credits=5_000_000, paid=1000, currency="usd"
    )
    assert session() == expected
    reference = session(metadata={"credits": "5000000"})
    assert (reference.account, reference.credits) == ("from-link", 5_000_000)
    assert session(payment_intent=None).payment == "cs_1"
    assert session(amount_total=0).paid is None


@pytest.mark.parametrize(
    "changes", [{"payment_status": "unpaid"}, {"mode": "subscription"}, {"mode": "setup"}]
)
def test_a_session_that_paid_nothing_is_none(changes: dict[str, Any]) -> None:
    assert session(**changes).kind == "other"


@pytest.mark.parametrize("credits", ["", "1.5", "-1", "1e6", "x", "1" * 17, None])
def test_credits_are_an_integer(credits: str | None) -> None:
    assert session(metadata={"account": "acme", "credits": credits}).credits is None


def test_a_late_payment_is_a_purchase_too() -> None:
    found = read(event("checkout.session.async_payment_succeeded", SESSION))
    assert (found.kind, found.payment) == ("purchase", "pi_1")


def test_refunds_and_disputes_name_the_payment() -> None:
    charge = {"id": "ch_1", "payment_intent": "pi_1", "amount": 1000, "amount_refunded": 250}
    refund = read(event("charge.refunded", charge))
    assert (refund.kind, refund.payment, refund.back, refund.whole) == ("refund", "pi_1", 250, 1000)
    dispute = read(event("charge.dispute.created", {"charge": "ch_1", "amount": 1000}))
    assert (dispute.kind, dispute.payment, dispute.back) == ("dispute", "ch_1", 1000)
    assert read(event("charge.refunded", {"id": "ch_1"})).problem is not None


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id": 1, "type": "x", "data": {}}'])
def test_what_is_no_event(body: bytes) -> None:
    with pytest.raises(MalformedJson):
        read(body)


def test_a_signature_is_of_these_bytes_by_this_secret_and_recent() -> None:
    body = event("customer.created", {})
    sign = stripe.WebhookSignature.generate_signature_header
    good = sign(body.decode(), SECRET)
    assert verified(body, good, SECRET).kind == "other"
    old = sign(body.decode(), SECRET, timestamp=1_700_000_000 - TOLERANCE_S)
    refused = [(body, None), (body, "x"), (body + b" ", good), (body, old), (b"\xff", good)]
    for content, signature in refused:
        with pytest.raises(SignatureInvalid):
            verified(content, signature, SECRET)
    with pytest.raises(SignatureInvalid):
        verified(body, good, "whsec_other")


def purchase(amount: int, *, paid: int | None, refunded: int = 0, disputed: int = 0) -> Any:
    return {"amount": amount, "paid": paid, "refunded": refunded, "disputed": disputed}


def back(kind: Any, back: int, whole: int | None = None) -> Event:
    return Event("stripe", "evt_1", "x", kind, payment="pi_1", back=back, whole=whole)


@pytest.mark.parametrize(
    ("event", "purchase", "part"),
    [
        (back("refund", 1000, 1000), purchase(5001, paid=1000), 5001),
        (back("refund", 333, 1000), purchase(100, paid=None), 33),
        (back("refund", 666, 1000), purchase(100, paid=None, refunded=33), 33),
        (back("refund", 333, 1000), purchase(100, paid=None, refunded=66), 0),
        (back("refund", 1000, 1000), purchase(100, paid=1000, disputed=60), 40),
        (back("dispute", 500), purchase(100, paid=1000), 50),
        (back("dispute", 500), purchase(100, paid=1000, refunded=60), 40),
        (back("dispute", 500), purchase(100, paid=None), 100),
        (back("dispute", 5000), purchase(100, paid=1000), 100),
    ],
)
def test_what_is_taken_back_is_the_share_of_the_money(
    event: Event, purchase: Any, part: int
) -> None:
    assert share(event, purchase) == part
