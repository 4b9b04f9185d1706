"""What is read from a request beside its body: ids, keys, tokens, headers, and how much of it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.errors import (
    BodyTooLarge,
    Forbidden,
    HoldfastError,
    InvalidRequest,
    KeyInvalid,
    KeyMissing,
    MalformedJson,
    Unauthenticated,
    UnknownAccount,
)
from holdfast.http.requests import (
    NOBODY,
    Call,
    Gone,
    check_scope,
    read_body,
    read_durability,
    read_key,
    read_token,
    read_traceparent,
    refuse_doubled,
    request_ids,
)
from holdfast.http.routes import ROUTES, Route, Router


def call_of(accounts: str | None = None) -> Call:
    """A call that gets as far as its ids; nothing here asks a service."""
    key = dataclasses.replace(NOBODY, id="abc", accounts=accounts, actor="key:abc")
    return Call(None, key, "req-1")  # type: ignore[arg-type]


# ── ids and scopes ───────────────────────────────────────────────────────────────────────────────


def test_ids_go_into_the_call() -> None:
    call = call_of()
    call.take_ids({"account": "acme:eu", "hold": "h-1"})
    assert (call.account, call.hold, call.member) == ("acme:eu", "h-1", "")


@pytest.mark.parametrize("field", ["account", "hold", "member"])
@pytest.mark.parametrize("value", ["a b", "{a}", "é", "a" * 129, "a\n"])
def test_an_id_outside_the_grammar_is_named(field: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        call_of().take_ids({"account": "a", field: value})
    assert caught.value.members["errors"][0]["field"] == field


@pytest.mark.parametrize(
    ("accounts", "account", "seen"),
    [
        (None, "acme", True),
        ("acme", "acme", True),
        ("acme", "acme2", False),
        ("acme:*", "acme:eu", True),
        ("acme:*", "acme:", True),
        ("acme:*", "acme", False),
        ("*", "acme", True),
    ],
)
def test_an_account_outside_the_keys_is_as_if_it_were_not_there(
    accounts: str | None, account: str, seen: bool
) -> None:
    call = call_of(accounts)
    if seen:
        call.take_ids({"account": account})
        return
    with pytest.raises(UnknownAccount) as caught:
        call.take_ids({"account": account})
    # Nothing may tell it from an account that does not exist.
    real = UnknownAccount(account, mark=7)
    assert (caught.value.detail, caught.value.code) == (real.detail, real.code)


def test_any_one_of_the_scopes_is_enough() -> None:
    key = dataclasses.replace(NOBODY, scopes=frozenset({"read"}))
    check_scope(key, frozenset({"read", "spend"}))
    with pytest.raises(Forbidden, match="spend"):
        check_scope(key, frozenset({"spend"}))


def test_every_route_but_those_for_machines_asks_for_a_scope() -> None:
    assert {route.name for route in ROUTES if not route.scopes} == {
        *("livez", "readyz", "metrics", "openapi", "problem"),
        "stripe",  # what it sends is signed
    }


# ── headers ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sent", "key"),
    [(b"order:1.a_B-2", "order:1.a_B-2"), (b'"order-1"', "order-1"), (b"k" * 128, "k" * 128)],
)
def test_a_key_is_bare_or_quoted(sent: bytes, key: str) -> None:
    assert read_key({b"idempotency-key": sent}) == key


@pytest.mark.parametrize(
    "sent", [b"", b'""', b'"', b'"a', b"a b", b"a/b", b"k" * 129, b"\xe9", b'""a""', b"{a}"]
)
def test_a_key_outside_the_grammar_is_invalid(sent: bytes) -> None:
    with pytest.raises(KeyInvalid):
        read_key({b"idempotency-key": sent})


def test_a_key_that_is_needed_and_not_there_is_missing() -> None:
    call = call_of()
    with pytest.raises(KeyMissing):
        _ = call.own_key
    with pytest.raises(KeyMissing, match="final=false"):
        call.needs_key("a commit with final=false")
    call.key = read_key({b"idempotency-key": b"k"})
    assert call.own_key == "k"
    call.needs_key("anything")


@pytest.mark.parametrize("sent", [b"Bearer hf_x", b"bearer hf_x", b"BEARER  hf_x "])
def test_a_token_follows_bearer(sent: bytes) -> None:
    assert read_token({b"authorization": sent}) == b"hf_x"


@pytest.mark.parametrize("headers", [{}, {b"authorization": b"Basic aGY6eA=="}])
def test_another_authorization_is_none(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(Unauthenticated):
        read_token(headers)


def test_durability_is_one_of_three() -> None:
    assert read_durability({}) is None
    assert read_durability({b"holdfast-durability": b"settled"}) == "settled"
    with pytest.raises(InvalidRequest, match="Holdfast-Durability"):
        read_durability({b"holdfast-durability": b"unknown"})


def test_a_malformed_traceparent_is_none() -> None:
    sent = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
    assert read_traceparent({b"traceparent": sent}) == sent.decode()
    assert read_traceparent({b"traceparent": sent[:-1]}) is None
    assert read_traceparent({b"traceparent": sent + b'"'}) is None
    assert read_traceparent({}) is None


@pytest.mark.parametrize("name", [b"authorization", b"idempotency-key", b"content-length"])
def test_a_doubled_header_is_refused_where_it_matters(name: bytes) -> None:
    with pytest.raises(InvalidRequest, match="twice"):
        refuse_doubled([(name, b"1"), (b"accept", b"a"), (name, b"1")])
    refuse_doubled([(b"accept", b"a"), (b"accept", b"b"), (name, b"1")])


def test_request_ids_are_the_callers_or_new() -> None:
    give = request_ids()
    assert give(b"their-1") == "their-1"
    made = [give(None), give(b""), give(b"not an id"), give(b"x" * 129)]
    assert len(set(made)) == 4
    assert made[0] != request_ids()(None)


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────


def receiver(*parts: bytes, ends: bool = True) -> tuple[Callable[[], Any], list[int]]:
    """A `receive` that gives these parts, and how often it was asked."""
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": part, "more_body": True} for part in parts
    ]
    if ends and messages:
        messages[-1]["more_body"] = False
    asked: list[int] = []

    async def receive() -> dict[str, Any]:
        asked.append(1)
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return receive, asked


async def test_a_body_comes_in_parts() -> None:
    receive, _ = receiver(b'{"amount"', b": 5", b"}")
    assert await read_body(receive, {}, 100) == b'{"amount": 5}'


async def test_a_body_of_just_the_limit_is_taken() -> None:
    receive, _ = receiver(b"x" * 60, b"x" * 40)
    assert len(await read_body(receive, {b"content-length": b"100"}, 100)) == 100


async def test_a_declared_size_over_the_limit_is_refused_unread() -> None:
    receive, asked = receiver(b"x" * 101)
    with pytest.raises(BodyTooLarge):
        await read_body(receive, {b"content-length": b"101"}, 100)
    assert not asked


async def test_a_size_that_was_not_declared_is_counted() -> None:
    receive, asked = receiver(*[b"x" * 60] * 50)
    with pytest.raises(BodyTooLarge) as caught:
        await read_body(receive, {}, 100)
    assert len(asked) == 2
    assert caught.value.members["max_bytes"] == 100


async def test_a_client_that_goes_away_is_not_answered() -> None:
    for parts in ((), (b'{"amount"',)):
        receive, _ = receiver(*parts, ends=False)
        with pytest.raises(Gone):
            await read_body(receive, {}, 100)


async def test_a_compressed_body_is_refused() -> None:
    receive, _ = receiver(b"x")
    with pytest.raises(MalformedJson, match="compressed"):
        await read_body(receive, {b"content-encoding": b"gzip"}, 100)


# ── routes ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_route_is_found_by_its_path(route: Route) -> None:
    path = route.path
    for name in route.params:
        path = path.replace(f"{{{name}}}", f"the-{name}")
    found = Router().find(path)
    assert found is not None
    methods, ids = found
    assert methods[route.method] is route
    assert ids == {name: f"the-{name}" for name in route.params}


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/v1", "/v1/", "/v1/accounts/", "/v1/accounts//holds", "/v1/accounts/a/holds/"),
        *("/v1/accounts/a/holds/h/commit/", "/v1/accounts/a/other", "/livez/", "/v2/accounts"),
    ],
)
def test_other_paths_are_not(path: str) -> None:
    assert Router().find(path) is None


def test_two_routes_in_one_place_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="twice"):
        Router([*ROUTES, ROUTES[0]])


def test_every_refusal_of_a_request_is_a_holdfast_error() -> None:
    assert issubclass(BodyTooLarge, HoldfastError) and not issubclass(Gone, HoldfastError)
