"""Deliveries on a real Postgres to real receivers: signed, repeated, given up, sent again."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any

import pytest
import pytest_asyncio
from standardwebhooks import Webhook, WebhookVerificationError

from holdfast import deliveries as operators
from holdfast import endpoints
from holdfast.audit import Caller
from holdfast.doctor import examine
from holdfast.embedded import Postgres, Valkey
from holdfast.endpoints import Endpoint
from holdfast.errors import InvalidRequest, NotFound
from holdfast.postgres import Pool
from holdfast.webhooks import MAX_ENDPOINTS
from settlement import events, failpoints
from settlement.deliveries import BACKOFF_S, ROOM, Deliveries
from settlement.queries import sql
from tests.commands import command
from tests.receivers import Post, Receiver
from tests.stack import Stack
from tests.vetted import running, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
module_fixture: Callable[..., Any] = pytest_asyncio.fixture(scope="module", loop_scope="module")
fixture: Callable[..., Any] = pytest_asyncio.fixture(loop_scope="module")

OPERATOR = Caller("cli:test")
_happenings = count(1)


@module_fixture
async def stack(valkey_server: Valkey, postgres_server: Postgres) -> AsyncIterator[Stack]:
    urls = valkey_server.url, postgres_server.url
    async with Stack(*urls, shards=1, vet=False, endpoints_private=True) as stack:
        yield stack


@module_fixture
async def pool(stack: Stack) -> Pool:
    return Pool(stack.pool)


@fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@fixture
async def clean(stack: Stack) -> AsyncIterator[None]:
    """Nothing is left for the tests after this one."""
    yield
    await stack.pool.execute("TRUNCATE event, delivery, endpoint")


@fixture
async def sending(stack: Stack, clean: None) -> AsyncIterator[Deliveries]:
    """A worker's service, at work."""
    service = Deliveries(stack.state)
    async with running(service.run()):
        yield service


async def register(pool: Pool, url: str, *kinds: str) -> tuple[Endpoint, str]:
    return await endpoints.add(pool, OPERATOR, url, kinds or ("*",), private=True)


async def happen(stack: Stack, kind: str = "balance.low") -> str:
    """Emit an event; its account, which is no other one's."""
    account = f"acme:{next(_happenings)}"
    async with stack.pool.acquire() as conn:
        await events.emit(conn, kind=kind, account=account, data={"available": 7}, once=account)
    return account


async def one(stack: Stack) -> dict[str, Any]:
    """The only delivery there is."""
    found = await stack.row("delivery")
    assert found is not None
    return found


async def over(stack: Stack, state: str) -> dict[str, Any]:
    """The only delivery, once it is in a state."""

    async def there() -> bool:
        return [row["state"] for row in await stack.rows("delivery")] == [state]

    await until(there)
    return await one(stack)


async def failed(stack: Stack, attempts: int) -> dict[str, Any]:
    """The only delivery, once so many attempts have failed."""

    async def there() -> bool:
        return [row["attempts"] for row in await stack.rows("delivery")] == [attempts]

    await until(there)
    return await one(stack)


async def is_due(stack: Stack) -> None:
    """As if the time had come for all that waits."""
    await stack.pool.execute("UPDATE delivery SET next_try_at = now() WHERE state = 'pending'")


def verified(post: Post, secret: str) -> Any:
    return Webhook(secret).verify(post.body, post.headers)


# ── what is sent ─────────────────────────────────────────────────────────────────────────────────


async def test_an_event_arrives_signed(
    stack: Stack, pool: Pool, receiver: Receiver, sending: Deliveries
) -> None:
    endpoint, secret = await register(pool, receiver.url + "?team=a")
    account = await happen(stack)

    delivery = await over(stack, "delivered")

    (post,) = receiver.posts
    event = await stack.row("event")
    assert event is not None
    assert verified(post, secret) == {
        "type": "balance.low",
        "timestamp": event["at"].isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "data": {"account": account, "available": 7},
    }
    assert post.id == event["id"] == delivery["event"]
    assert post.headers["content-type"] == "application/json"
    assert post.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert (delivery["endpoint"], delivery["attempts"]) == (endpoint.id, 1)
    assert (delivery["last_status"], delivery["last_error"]) == (200, None)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "A" * 44).verify(post.body, post.headers)


async def test_both_secrets_sign_while_a_rotation_lasts(
    stack: Stack, pool: Pool, receiver: Receiver, sending: Deliveries
) -> None:
    endpoint, old = await register(pool, receiver.url)
    changed, new = await endpoints.rotate(pool, OPERATOR, endpoint.id)
    assert changed.old_secret_until is not None and old != new
    await happen(stack)
    await over(stack, "delivered")

    assert verified(receiver.posts[0], old) == verified(receiver.posts[0], new)
    await stack.pool.execute("UPDATE endpoint SET old_secret_until = now()")
    await happen(stack)
    await until(lambda: len(receiver.posts) == 2)
    assert verified(receiver.posts[1], new)
    with pytest.raises(WebhookVerificationError):
        verified(receiver.posts[1], old)


async def test_an_endpoint_gets_the_kinds_that_it_wants(
    stack: Stack, pool: Pool, receiver: Receiver, sending: Deliveries
) -> None:
    async with Receiver() as other:
        await register(pool, receiver.url, "hold.expired", "balance.low")
        await register(pool, other.url, "hold.expired")
        for kind in ("balance.low", "hold.expired", "balance.empty"):
            await happen(stack, kind)
        await until(lambda: len(receiver.posts) + len(other.posts) == 3)

    assert {post.document["type"] for post in receiver.posts} == {"hold.expired", "balance.low"}
    assert [post.document["type"] for post in other.posts] == ["hold.expired"]
    assert len(await stack.rows("event")) == 2


# ── what fails ───────────────────────────────────────────────────────────────────────────────────


async def test_what_fails_is_tried_again_under_the_same_id(
    stack: Stack, pool: Pool, receiver: Receiver, sending: Deliveries
) -> None:
    await register(pool, receiver.url)
    receiver.answers = [500, 404]
    await happen(stack)
    for attempt in (1, 2):
        row = await failed(stack, attempt)
        assert row["state"] == "pending"
        assert row["last_error"] == f"it answered {row['last_status']}"
        wait_s = await stack.pool.fetchval(
            "SELECT extract(epoch FROM next_try_at - clock_timestamp()) FROM delivery"
        )
        assert 0 < wait_s <= BACKOFF_S[attempt - 1] * 1.1
        assert attempt == 1 or wait_s > BACKOFF_S[0] * 1.1
        await is_due(stack)

    assert (await over(stack, "delivered"))["attempts"] == 3
    assert len({post.id for post in receiver.posts}) == 1
    assert len({post.body for post in receiver.posts}) == 1


async def test_what_fails_for_three_days_is_dead_until_an_operator_sends_it_again(
    stack: Stack, pool: Pool, receiver: Receiver, sending: Deliveries
) -> None:
    await register(pool, receiver.url)
    receiver.answers = [503, 503]
    await happen(stack)
    row = await failed(stack, 1)
    await stack.pool.execute("UPDATE delivery SET attempts = $1", len(BACKOFF_S))
    await is_due(stack)

    row = await over(stack, "dead")
    assert (row["attempts"], row["last_status"]) == (len(BACKOFF_S) + 1, 503)
    assert [each.id for each in await operators.page(pool, state="dead")] == [row["id"]]
    assert (await operators.standing(pool)).dead == 1
    (check,) = [c for c in await examine(stack.config) if c.name == "dead deliveries"]
    assert check.level == "warn" and "resend" in check.mend

    assert await operators.resend_dead(pool, OPERATOR) == 1
    assert (await over(stack, "delivered"))["attempts"] == 1
    assert {post.id for post in receiver.posts} == {row["event"]}
    resent = await operators.resend(pool, OPERATOR, row["id"])  # what arrived, too
    assert resent.state == "pending"
    await over(stack, "delivered")
    assert len(receiver.posts) == 4
    for number in (row["id"] + 1, 10**9):
        with pytest.raises(NotFound):
            await operators.resend(pool, OPERATOR, number)


async def test_a_receiver_that_is_gone_gets_no_more(
    stack: Stack, pool: Pool, receiver: Receiver, sending: Deliveries
) -> None:
    endpoint, _ = await register(pool, receiver.url)
    receiver.answers = [410]
    await happen(stack)

    row = await over(stack, "dead")
    (found,) = await endpoints.page(pool)
    assert found.disabled_why == "it answered 410 Gone" and found.disabled_at is not None
    audited = await stack.rows("audit", subject=f"endpoint:{endpoint.id}")
    assert [(each["action"], each["actor"]) for each in audited] == [
        ("endpoint.add", "cli:test"),
        ("endpoint.disable", "system"),
    ]
    await happen(stack)
    assert len(await stack.rows("event")) == 1
    await operators.resend(pool, OPERATOR, row["id"])
    assert (await operators.standing(pool)).pending == 0  # of those that somebody waits for
    await endpoints.enable(pool, OPERATOR, endpoint.id)
    await over(stack, "delivered")


async def test_one_that_is_slow_holds_up_nobody_else(
    stack: Stack, pool: Pool, receiver: Receiver, sending: Deliveries
) -> None:
    async with Receiver() as slow:
        slow.held = asyncio.Event()
        await register(pool, slow.url, "balance.low")
        await register(pool, receiver.url, "balance.empty")
        for _ in range(3 * ROOM):
            await happen(stack, "balance.low")
        await until(lambda: len(slow.posts) == ROOM)
        for _ in range(3 * ROOM):
            await happen(stack, "balance.empty")

        await until(lambda: len(receiver.posts) == 3 * ROOM)
        assert len(slow.posts) == ROOM
        slow.held.set()
        await until(lambda: len(slow.posts) == 3 * ROOM)


async def test_what_is_over_leaves_after_its_retention(
    stack: Stack, pool: Pool, receiver: Receiver, sending: Deliveries
) -> None:
    """Given events that arrived, died, or wait, If all are old but one that was sent again, I
    expect that one to stay."""
    await register(pool, receiver.url)
    await happen(stack)
    await over(stack, "delivered")
    await stack.pool.execute(
        "INSERT INTO event (kind, data, once, fanned)"
        " SELECT 'balance.low', '{}', name, true"
        " FROM unnest('{dead,waits,resent,fresh}'::text[]) AS name"
    )
    await stack.pool.execute(
        "INSERT INTO delivery (event, endpoint, state, ended_at, next_try_at)"
        " SELECT event.id, endpoint.id, CASE once WHEN 'dead' THEN 'dead' ELSE 'pending' END,"
        " CASE once WHEN 'dead' THEN now() END, now() + interval '1 day'"
        " FROM event, endpoint WHERE once IN ('dead', 'waits', 'resent')"
    )
    assert await sending.prune() == 0
    await stack.pool.execute(
        "UPDATE delivery SET queued_at = queued_at - interval '31 days',"
        " ended_at = ended_at - interval '31 days'"
        " FROM event WHERE event.id = delivery.event AND once <> 'resent'"
    )
    await stack.pool.execute("UPDATE event SET at = at - interval '31 days' WHERE once <> 'fresh'")

    assert await sending.prune() == 6
    assert {row["once"] for row in await stack.rows("event")} == {"resent", "fresh"}
    assert (await one(stack))["state"] == "pending"


# ── operators ────────────────────────────────────────────────────────────────────────────────────


async def test_an_endpoint_that_is_removed_or_disabled_is_sent_nothing(
    stack: Stack, pool: Pool, receiver: Receiver, clean: None
) -> None:
    gone, _ = await register(pool, receiver.url)
    off, _ = await register(pool, receiver.url)
    on, _ = await register(pool, receiver.url)
    await happen(stack)
    service = Deliveries(stack.state)
    async with stack.pool.acquire() as conn:
        await conn.fetchval(sql("event_fan"), 10)
    await endpoints.remove(pool, OPERATOR, gone.id)
    await endpoints.disable(pool, OPERATOR, off.id)
    async with running(service.run()):

        async def arrived() -> bool:
            states = {row["endpoint"]: row["state"] for row in await stack.rows("delivery")}
            return states == {gone.id: "pending", off.id: "pending", on.id: "delivered"}

        await until(arrived)
    assert len(receiver.posts) == 1
    for change in (endpoints.remove, endpoints.disable, endpoints.rotate, endpoints.send_test):
        with pytest.raises(NotFound):
            await change(pool, OPERATOR, gone.id)
    with pytest.raises(NotFound):
        await endpoints.send_test(pool, OPERATOR, off.id)


async def test_a_test_goes_to_one_endpoint_alone(
    stack: Stack, pool: Pool, receiver: Receiver, sending: Deliveries
) -> None:
    endpoint, secret = await register(pool, receiver.url, "hold.expired")
    await register(pool, receiver.url)
    number = await endpoints.send_test(pool, OPERATOR, endpoint.id)

    await over(stack, "delivered")
    (post,) = receiver.posts
    assert verified(post, secret)["type"] == "endpoint.test"
    assert (await operators.find(pool, number)).state == "delivered"


async def test_there_are_only_so_many_endpoints(stack: Stack, pool: Pool, clean: None) -> None:
    for number in range(MAX_ENDPOINTS):
        await register(pool, f"https://example.com/{number}")
    with pytest.raises(InvalidRequest, match="remove one first"):
        await register(pool, "https://example.com/more")
    with pytest.raises(InvalidRequest, match="kinds"):
        await register(pool, "https://example.com/", "surprise")
    with pytest.raises(InvalidRequest, match="description"):
        await endpoints.add(
            pool, OPERATOR, "https://example.com/", ("*",), "x" * 300, private=False
        )


# ── crashes ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("point", failpoints.DELIVERY_POINTS)
async def test_a_worker_may_be_killed_at_any_point(
    stack: Stack, pool: Pool, receiver: Receiver, clean: None, point: str
) -> None:
    """Given a worker that is killed there, If another one takes over, I expect every event to
    arrive, and at most those twice that had been posted, under the same id."""
    await register(pool, receiver.url)
    accounts = {await happen(stack) for _ in range(3)}
    settings = {"test_failpoint": f"{point}:1", "endpoints_private": True}
    async with command(stack, "holdfast", "settle", **settings) as doomed:
        _, said = await asyncio.wait_for(doomed.communicate(), 60)
        assert doomed.returncode == -signal.SIGKILL, said.decode()
    before = len(receiver.posts)
    assert (before > 0) is (point == "posted")

    await is_due(stack)  # as if the claims of the dead had run out
    async with running(Deliveries(stack.state).run()):

        async def all_arrived() -> bool:
            states = [row["state"] for row in await stack.rows("delivery")]
            return states == ["delivered"] * 3

        await until(all_arrived)
    told = [(post.id, post.document["data"]["account"]) for post in receiver.posts]
    assert {account for _, account in told} == accounts
    assert len(set(told)) == 3
    assert len(told) == 3 + before
