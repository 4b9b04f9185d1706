"""Stripe's events: which of them matter, and what they say.

    checkout.session.completed, ….async_payment_succeeded   a payment was made: a purchase
    charge.refunded                                         money went back: all refunds so far
    charge.dispute.created                                  a customer's bank takes money back

A Checkout Session is told the account (`metadata.account`, or `client_reference_id`) and what the
payment buys (`metadata.credits`, an integer of microcredits) by whoever makes it. The payment is
known by its PaymentIntent (`pi_…`), which refunds and disputes name as well.

Signatures are Stripe's own scheme, verified by Stripe's own library, over the exact bytes.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from holdfast.errors import MalformedJson, SignatureInvalid
from holdfast.payments import Event
from holdfast.purchases import PAYMENT_PATTERN

# A signature is good for so long: Stripe's own default.
TOLERANCE_S: Final = 300

_PAID: Final = frozenset({"checkout.session.completed", "checkout.session.async_payment_succeeded"})
_NAME = re.compile(PAYMENT_PATTERN)
_NUMBER = re.compile(r"[0-9]{1,16}")


def verified(body: bytes, signature: str | None, secret: str) -> Event:
    """The event in `body`. Raises SignatureInvalid, MalformedJson.

    The first call takes half a second: Stripe's library is large, and loaded by who needs it.
    """
    import stripe  # noqa: PLC0415

    try:
        if signature is not None and not signature.isascii():  # which no digest can be compared to
            raise SignatureInvalid("the signature is no text of ASCII characters")
        stripe.WebhookSignature.verify_header(body, signature, secret, TOLERANCE_S)
    except (stripe.SignatureVerificationError, UnicodeDecodeError) as error:
        raise SignatureInvalid("the event is not signed with this endpoint's secret") from error
    return read(body)


def read(body: bytes) -> Event:
    """The event in a body that was verified. Raises MalformedJson."""
    try:
        document = orjson.loads(body)
        name, kind, about = document["id"], document["type"], document["data"]["object"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise MalformedJson("the body is no event of Stripe") from error
    if not (_is_name(name) and _is_name(kind) and isinstance(about, dict)):
        raise MalformedJson("the body is no event of Stripe")
    if kind in _PAID and about.get("mode") == "payment" and about.get("payment_status") != "unpaid":
        return _purchase(name, kind, about)
    if kind == "charge.refunded":
        return _refund(name, kind, about)
    if kind == "charge.dispute.created":
        return _dispute(name, kind, about)
    return Event("stripe", name, kind, "other")


def _purchase(name: str, kind: str, session: dict[str, Any]) -> Event:
    told = session.get("metadata")
    metadata = told if isinstance(told, dict) else {}
    # The reference can be part of a link that customers see; metadata is the server's alone.
    account = metadata.get("account") or session.get("client_reference_id")
    credits = str(metadata.get("credits", ""))
    paid, currency = session.get("amount_total"), session.get("currency")
    return Event(
        *("stripe", name, kind, "purchase"),
        payment=_name(session.get("payment_intent")) or _name(session.get("id")),
        account=_name(account),
        credits=int(credits) if _NUMBER.fullmatch(credits) else None,
        paid=paid if _is_money(paid) else None,
        currency=_name(currency),
    )


def _refund(name: str, kind: str, charge: dict[str, Any]) -> Event:
    back, whole = charge.get("amount_refunded"), charge.get("amount")
    good = _is_money(back) and _is_money(whole)
    return _back(
        *(name, kind, "refund", charge.get("payment_intent") or charge.get("id")),
        back=back if good else None,
        whole=whole if good else None,
    )


def _dispute(name: str, kind: str, dispute: dict[str, Any]) -> Event:
    back = dispute.get("amount")
    payment = dispute.get("payment_intent") or dispute.get("charge")
    return _back(name, kind, "dispute", payment, back=back if _is_money(back) else None)


def _back(
    name: str, kind: str, what: Any, payment: Any, *, back: int | None, whole: int | None = None
) -> Event:
    problem = None
    if _name(payment) is None or back is None:
        problem = "the event does not say how much of which payment went back"
    return Event(
        *("stripe", name, kind, what),
        payment=_name(payment),
        back=back,
        whole=whole,
        problem=problem,
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _name(value: Any) -> str | None:
    return value if _is_name(value) else None


def _is_money(value: Any) -> bool:
    """A positive number of minor units that Postgres keeps."""
    return type(value) is int and 0 < value < 2**53
