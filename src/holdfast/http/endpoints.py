"""Endpoints for events and their deliveries over HTTP: for the scope `admin`, unrestricted keys."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from holdfast import deliveries, endpoints
from holdfast.deliveries import Delivery
from holdfast.endpoints import MAX_DESCRIPTION, Endpoint
from holdfast.errors import NotFound
from holdfast.http.admin import unrestricted
from holdfast.http.answers import Answer, ListAnswer, Time, time_text
from holdfast.http.bodies import Form, NoQuery, Page
from holdfast.http.fields import Words
from holdfast.http.requests import Call
from holdfast.webhooks import ALL, KINDS, MAX_URL

Kinds = Annotated[
    list[str],
    Field(
        min_length=1,
        max_length=16,
        description=f"some of {', '.join(KINDS)}; or {ALL}: all of them, later ones too",
    ),
]


class NewEndpoint(Form):
    """An endpoint to register."""

    url: Annotated[str, Field(max_length=MAX_URL, description="an https URL of the open internet")]
    kinds: Kinds | None = None
    description: Annotated[Words, Field(max_length=MAX_DESCRIPTION)] | None = None


class NoFields(Form):
    """Nothing: `{}`."""


class DeliveriesPage(Page):
    """Which deliveries to list."""

    state: Literal["pending", "delivered", "dead"] | None = None
    endpoint: Annotated[str | None, Field(max_length=128)] = None


class EndpointAnswer(TypedDict):
    """An endpoint, without its secret."""

    id: str
    url: str
    kinds: list[str]
    description: str
    created_at: Time
    disabled_at: Time | None
    disabled_why: str | None
    old_secret_until: Annotated[
        Time | None, Field(description="until when the secret before the last one signs as well")
    ]


class NewSecretAnswer(EndpointAnswer):
    """An endpoint with the secret that it was just given, which is shown this once."""

    secret: str


class DeliveryAnswer(TypedDict):
    """One event on its way to one endpoint."""

    id: str
    event: Annotated[str, Field(description="the webhook-id that the receiver sees")]
    kind: str
    account: str | None
    endpoint: str
    state: Literal["pending", "delivered", "dead"]
    attempts: Annotated[int, Field(description="that have ended")]
    queued_at: Time
    next_try_at: Annotated[Time | None, Field(description="null once it is over")]
    ended_at: Time | None
    last_status: Annotated[int | None, Field(description="what the last attempt was answered")]
    last_error: str | None


# ── endpoints ────────────────────────────────────────────────────────────────────────────────────


async def list_endpoints(call: Call, query: Page) -> Answer[ListAnswer[EndpointAnswer]]:
    """All endpoints by id, disabled ones too, without their secrets."""
    unrestricted(call)
    found = await endpoints.page(call.ledger.pool, query.after or "", query.limit + 1)
    data = [endpoint_answer(each) for each in found[: query.limit]]
    more = len(found) > query.limit
    return Answer(200, {"data": data, "next": data[-1]["id"] if more else None})


async def add_endpoint(call: Call, body: NewEndpoint) -> Answer[NewSecretAnswer]:
    """Register an endpoint for events. Its secret is in this answer and nowhere else, ever again.

    The secret verifies what is sent, by Standard Webhooks.
    """
    unrestricted(call)
    made, secret = await endpoints.add(
        call.ledger.pool,
        call.caller(),
        body.url,
        body.kinds or [ALL],
        body.description or "",
        private=call.service.config.endpoints_private,
    )
    return Answer(201, {**endpoint_answer(made), "secret": secret})


async def remove_endpoint(call: Call, query: NoQuery) -> Answer[EndpointAnswer]:
    """Remove an endpoint; what was on its way to it is sent no more."""
    unrestricted(call)
    gone = await endpoints.remove(call.ledger.pool, call.caller(), call.name)
    return Answer(200, endpoint_answer(gone))


async def disable_endpoint(call: Call, body: NoFields) -> Answer[EndpointAnswer]:
    """Send nothing more to an endpoint until it is enabled; what was on its way waits."""
    unrestricted(call)
    changed = await endpoints.disable(call.ledger.pool, call.caller(), call.name)
    return Answer(200, endpoint_answer(changed))


async def enable_endpoint(call: Call, body: NoFields) -> Answer[EndpointAnswer]:
    """Send to an endpoint again, first what has been waiting."""
    unrestricted(call)
    changed = await endpoints.enable(call.ledger.pool, call.caller(), call.name)
    return Answer(200, endpoint_answer(changed))


async def rotate_endpoint(call: Call, body: NoFields) -> Answer[NewSecretAnswer]:
    """Give an endpoint a new secret, shown this once; the old one signs beside it for 24 hours."""
    unrestricted(call)
    changed, secret = await endpoints.rotate(call.ledger.pool, call.caller(), call.name)
    return Answer(200, {**endpoint_answer(changed), "secret": secret})


async def test_endpoint(call: Call, body: NoFields) -> Answer[DeliveryAnswer]:
    """Send an event of kind `endpoint.test` to one endpoint; the list of deliveries tells more."""
    unrestricted(call)
    pool = call.ledger.pool
    number = await endpoints.send_test(pool, call.caller(), call.name)
    return Answer(200, delivery_answer(await deliveries.find(pool, number)))


# ── deliveries ───────────────────────────────────────────────────────────────────────────────────


async def list_deliveries(call: Call, query: DeliveriesPage) -> Answer[ListAnswer[DeliveryAnswer]]:
    """Deliveries, newest first: all, those of one state, those to one endpoint."""
    unrestricted(call)
    found = await deliveries.page(
        call.ledger.pool,
        state=query.state,
        endpoint=query.endpoint,
        before=_number(query.after) if query.after else None,
        limit=query.limit + 1,
    )
    data = [delivery_answer(each) for each in found[: query.limit]]
    more = len(found) > query.limit
    return Answer(200, {"data": data, "next": data[-1]["id"] if more else None})


async def resend_delivery(call: Call, body: NoFields) -> Answer[DeliveryAnswer]:
    """Send a delivery again that is over, under the same event id and with all its attempts."""
    unrestricted(call)
    number = _number(call.name)
    found = await deliveries.resend(call.ledger.pool, call.caller(), number)
    return Answer(200, delivery_answer(found))


def _number(text: str) -> int:
    number = deliveries.number_of(text)
    if number is None:
        raise NotFound(f"there is no delivery {text[:64]!r}")
    return number


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


def endpoint_answer(endpoint: Endpoint) -> EndpointAnswer:
    """An endpoint, without its secret."""
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "kinds": endpoint.kinds,
        "description": endpoint.description,
        "created_at": _time(endpoint.created_at),
        "disabled_at": _maybe(endpoint.disabled_at),
        "disabled_why": endpoint.disabled_why,
        "old_secret_until": _maybe(endpoint.old_secret_until),
    }


def delivery_answer(delivery: Delivery) -> DeliveryAnswer:
    """A delivery; when it is tried next is told while it is."""
    return {
        "id": str(delivery.id),
        "event": delivery.event,
        "kind": delivery.kind,
        "account": delivery.account,
        "endpoint": delivery.endpoint,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "queued_at": _time(delivery.queued_at),
        "next_try_at": _time(delivery.next_try_at) if delivery.state == "pending" else None,
        "ended_at": _maybe(delivery.ended_at),
        "last_status": delivery.last_status,
        "last_error": delivery.last_error,
    }


def _time(at: datetime) -> str:
    return time_text(round(at.timestamp() * 1000))


def _maybe(at: datetime | None) -> str | None:
    return None if at is None else _time(at)
