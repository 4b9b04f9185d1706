"""Endpoints and deliveries over HTTP, as an operator's program uses them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator

from holdfast import api_keys
from holdfast.embedded import Postgres, Valkey
from holdfast.http import openapi
from holdfast.http.routes import ROUTES
from settlement.deliveries import Deliveries
from tests.api import serving
from tests.receivers import Receiver
from tests.stack import Stack
from tests.vetted import running, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
module_fixture: Callable[..., Any] = pytest_asyncio.fixture(scope="module", loop_scope="module")
fixture: Callable[..., Any] = pytest_asyncio.fixture(loop_scope="module")

URL = "https://hooks.example.com/holdfast"
Login = Callable[..., Awaitable[httpx2.AsyncClient]]


@module_fixture
async def stack(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    async with Stack(valkey_server.url, postgres_server.url, shards=1) as stack:
        yield stack


@module_fixture
async def login(stack: Stack) -> AsyncIterator[Login]:
    """Makes a client with a new API key."""
    clients: list[httpx2.AsyncClient] = []
    async with serving(stack) as url:

        async def login(*scopes: str, accounts: str | None = None) -> httpx2.AsyncClient:
            _, token = await api_keys.create(stack.pool, "test", scopes, accounts)
            headers = {"Authorization": f"Bearer {token}"}
            clients.append(httpx2.AsyncClient(base_url=url, headers=headers, timeout=20))
            return clients[-1]

        yield login
        for client in clients:
            await client.aclose()


@module_fixture
async def admin(login: Login) -> httpx2.AsyncClient:
    return await login("admin")


@fixture
async def clean(stack: Stack) -> AsyncIterator[None]:
    yield
    await stack.pool.execute("TRUNCATE event, delivery, endpoint")


def refused(reply: httpx2.Response, status: int, code: str) -> str:
    assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
    detail: str = reply.json()["detail"]
    return detail


DOCUMENT = openapi.build(ROUTES)


def check(model: str, document: Any) -> None:
    """Raises where an answer is not what OpenAPI says, an unknown field included."""
    schema = {"$ref": f"#/components/schemas/{model}", "components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(document)
    assert set(document) <= set(DOCUMENT["components"]["schemas"][model]["properties"])


async def test_an_endpoint_from_its_registration_to_its_removal(
    stack: Stack, admin: httpx2.AsyncClient, clean: None
) -> None:
    body = {"url": URL, "kinds": ["hold.expired"], "description": "ours"}
    made = await admin.post("/v1/admin/endpoints", json=body)
    assert made.status_code == 201
    endpoint = made.json()
    check("NewSecretAnswer", endpoint)
    assert endpoint.pop("secret").startswith("whsec_")
    assert endpoint["url"] == URL and endpoint["kinds"] == ["hold.expired"]

    path = f"/v1/admin/endpoints/{endpoint['id']}"
    listed = (await admin.get("/v1/admin/endpoints")).json()
    assert listed == {"data": [endpoint], "next": None}
    check("EndpointAnswer", listed["data"][0])

    rotated = (await admin.post(f"{path}/rotate", json={})).json()
    assert rotated["secret"].startswith("whsec_") and rotated["old_secret_until"]
    disabled = (await admin.post(f"{path}/disable", json={})).json()
    assert disabled["disabled_at"] and disabled["disabled_why"].startswith("disabled by key:")
    refused(await admin.post(f"{path}/test", json={}), 404, "not_found")
    assert (await admin.post(f"{path}/enable", json={})).json()["disabled_at"] is None
    gone = await admin.delete(path)
    assert gone.json()["id"] == endpoint["id"]
    for reply in (await admin.delete(path), await admin.post(f"{path}/rotate", json={})):
        refused(reply, 404, "not_found")

    audited = await stack.rows("audit", subject=f"endpoint:{endpoint['id']}")
    assert [row["action"].removeprefix("endpoint.") for row in audited] == [
        *("add", "rotate", "disable", "enable", "remove"),
    ]
    assert {row["actor"][:4] for row in audited} == {"key:"}
    assert "whsec_" not in str(audited)


async def test_a_list_has_pages(admin: httpx2.AsyncClient, clean: None) -> None:
    made = [
        (await admin.post("/v1/admin/endpoints", json={"url": f"{URL}/{i}"})).json()["id"]
        for i in range(3)
    ]
    first = (await admin.get("/v1/admin/endpoints?limit=2")).json()
    rest = (await admin.get(f"/v1/admin/endpoints?limit=2&after={first['next']}")).json()
    assert [each["id"] for each in first["data"] + rest["data"]] == sorted(made)
    assert rest["next"] is None and first["data"][0]["kinds"] == ["*"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"url": "http://hooks.example.com/"}, "url"),
        ({"url": "https://127.0.0.1/"}, "url"),
        ({"url": "https://ann:secret@example.com/"}, "url"),
        ({"url": URL, "kinds": ["surprise"]}, "kinds"),
        ({"url": URL, "kinds": []}, "kinds"),
        ({"url": URL, "description": "x" * 257}, "description"),
        ({"url": URL, "secret": "mine"}, "secret"),
        ({}, "url"),
    ],
)
async def test_what_no_endpoint_can_be_is_refused(
    admin: httpx2.AsyncClient, clean: None, body: dict[str, Any], field: str
) -> None:
    reply = await admin.post("/v1/admin/endpoints", json=body)
    refused(reply, 422, "invalid_request")
    assert reply.json()["errors"][0]["field"] == field
    assert (await admin.get("/v1/admin/endpoints")).json()["data"] == []


async def test_only_an_admin_of_all_accounts_may(login: Login) -> None:
    clients = await login("read", "spend", "credit"), await login("admin", accounts="acme")
    for client in clients:
        calls = [
            client.get("/v1/admin/endpoints"),
            client.post("/v1/admin/endpoints", json={"url": URL}),
            client.get("/v1/admin/deliveries"),
            client.post("/v1/admin/deliveries/1/resend", json={}),
            client.delete("/v1/admin/endpoints/ep_1"),
            *(
                client.post(f"/v1/admin/endpoints/ep_1/{verb}", json={})
                for verb in ("test", "rotate", "disable", "enable")
            ),
        ]
        for call in calls:
            refused(await call, 403, "forbidden")


async def test_deliveries_are_listed_sent_again_and_measured(
    stack: Stack, admin: httpx2.AsyncClient, clean: None
) -> None:
    async with Receiver() as receiver:
        # The API refuses this URL: it was registered while the switch was on.
        endpoint = await stack.pool.fetchval(
            "INSERT INTO endpoint (url, kinds, secret) VALUES ($1, '{*}', $2) RETURNING id",
            *(receiver.url, "whsec_" + "A" * 44),
        )
        receiver.answers = [410]
        for _ in range(2):
            sent = (await admin.post(f"/v1/admin/endpoints/{endpoint}/test", json={})).json()
            check("DeliveryAnswer", sent)
            assert (sent["state"], sent["attempts"], sent["kind"]) == (
                *("pending", 0, "endpoint.test"),
            )
        metrics = (await admin.get("/metrics")).text
        assert "\nholdfast_deliveries_pending 2.0\n" in metrics
        assert "\nholdfast_delivery_oldest_seconds 0.0\n" not in metrics

        config = stack.config.model_copy(update={"endpoints_private": True})
        stack.state.config, before = config, stack.state.config
        try:
            async with running(Deliveries(stack.state).run()):

                async def ended() -> bool:
                    rows = await stack.rows("delivery")
                    return sorted(row["state"] for row in rows) == ["dead", "delivered"]

                await until(ended)
        finally:
            stack.state.config = before
    path = "/v1/admin/deliveries"
    (dead,) = (await admin.get(f"{path}?state=dead&endpoint={endpoint}")).json()["data"]
    check("DeliveryAnswer", dead)
    assert (dead["last_status"], dead["next_try_at"]) == (410, None)
    first = (await admin.get(f"{path}?limit=1")).json()
    rest = (await admin.get(f"{path}?limit=1&after={first['next']}")).json()
    assert {first["data"][0]["state"], rest["data"][0]["state"]} == {"dead", "delivered"}
    assert rest["next"] is None
    assert (await admin.get(f"{path}?endpoint=ep_other")).json()["data"] == []

    again = await admin.post(f"{path}/{dead['id']}/resend", json={})
    assert (again.json()["state"], again.json()["event"]) == ("pending", dead["event"])
    for number in (dead["id"], "0", "x", "9" * 19, "9" * 30):
        refused(await admin.post(f"{path}/{number}/resend", json={}), 404, "not_found")
    refused(await admin.get(f"{path}?after=x"), 404, "not_found")
