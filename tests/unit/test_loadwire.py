"""The load's own HTTP connection, against a real HTTP server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from scripted_service import Reply, ScriptedService, problem, running_service

from holdfast.loadwire import Line, Requests, Target, WireLost


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedService]:
    with running_service() as running:
        yield running


@pytest.fixture
def service(server: ScriptedService) -> ScriptedService:
    server.forget()
    return server


@pytest.fixture
async def line(service: ScriptedService) -> AsyncIterator[Line]:
    made = Line(Target.parse(service.url), timeout_s=5.0)
    yield made
    await made.aclose()


def _requests(service: ScriptedService, durability: str | None = None) -> Requests:
    return Requests(Target.parse(service.url), "hf_secret", durability)


async def test_requests_arrive_as_written_on_one_connection(
    service: ScriptedService, line: Line
) -> None:
    requests = _requests(service, "settled")

    await line.ask(requests.post("/v1/accounts/a/holds", '{"amount":5}', "k1"))
    await line.ask(requests.put("/v1/accounts/a", "{}"))
    await line.ask(requests.get("/v1/accounts/a?x=1"))

    post, put, get = service.asked
    assert (post.method, post.path, post.key, post.body) == (
        "POST",
        "/v1/accounts/a/holds",
        "k1",
        {"amount": 5},
    )
    assert post.headers["authorization"] == "Bearer hf_secret"
    assert post.headers["content-type"] == "application/json"
    assert post.headers["host"] == service.url.removeprefix("http://")
    assert post.headers["holdfast-durability"] == "settled"
    assert (put.method, put.body, put.key) == ("PUT", {}, None)
    assert (get.method, get.path, get.query, get.body) == ("GET", "/v1/accounts/a", "x=1", None)
    assert len({each.port for each in service.asked}) == 1


async def test_an_answer_is_status_body_and_when_to_come_again(
    service: ScriptedService, line: Line
) -> None:
    service.will_answer(
        problem(429, "rate_limited", headers={"Retry-After": "7"}),
        Reply(200, {"pad": "x" * 1_000_000}),
        Reply(204, None),
    )
    request = _requests(service).get("/")

    first = await line.ask(request)
    assert (first.status, first.retry_after) == (429, "7")
    assert b"rate_limited" in first.body
    second = await line.ask(request)
    assert (second.status, len(second.body), second.retry_after) == (200, 1_000_011, None)


async def test_half_an_answer_is_a_loss_and_the_next_one_a_new_connection(
    service: ScriptedService, line: Line
) -> None:
    service.will_answer(Reply(half=True), Reply(201))
    request = _requests(service).get("/")
    with pytest.raises(WireLost, match="before the answer"):
        await line.ask(request)
    assert (await line.ask(request)).status == 201
    first, second = service.asked
    assert first.port != second.port


async def test_an_answer_that_does_not_come_is_a_loss(service: ScriptedService) -> None:
    service.will_answer(Reply(never=True), Reply(201))
    line = Line(Target.parse(service.url), timeout_s=0.2)
    request = _requests(service).get("/")
    with pytest.raises(WireLost):
        await line.ask(request)
    assert (await line.ask(request)).status == 201
    await line.aclose()


async def test_a_server_that_hangs_up_politely_is_dialled_again(
    service: ScriptedService, line: Line
) -> None:
    service.will_answer(Reply(headers={"connection": "close"}), Reply(201))
    request = _requests(service).get("/")
    assert (await line.ask(request)).status == 200
    assert (await line.ask(request)).status == 201
    assert len({each.port for each in service.asked}) == 2


async def test_a_cancelled_caller_leaves_no_answer_to_the_next(
    service: ScriptedService, line: Line
) -> None:
    service.will_answer(Reply(never=True), Reply(201))
    request = _requests(service).get("/")
    task = asyncio.create_task(line.ask(request))
    await asyncio.to_thread(service.wait_for, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await line.ask(request)).status == 201


async def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    line = Line(Target.parse(f"http://127.0.0.1:{port}"), timeout_s=5.0)
    with pytest.raises(WireLost, match="cannot connect"):
        await line.ask(b"GET / HTTP/1.1\r\n\r\n")
    await line.aclose()


async def test_a_server_that_speaks_something_else() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"-ERR unknown command\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        line = Line(Target.parse(f"http://127.0.0.1:{port}"), timeout_s=5.0)
        with pytest.raises(WireLost, match="before the answer"):
            await line.ask(b"GET / HTTP/1.1\r\n\r\n")
        await line.aclose()


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://h", Target("h", 80, False, "")),
        ("https://h/", Target("h", 443, True, "")),
        ("http://[::1]:8080/base/", Target("::1", 8080, False, "/base")),
    ],
)
def test_addresses(url: str, target: Target) -> None:
    assert Target.parse(url) == target


def test_an_address_keeps_its_brackets() -> None:
    assert Target.parse("http://[::1]:8080").authority == "[::1]:8080"


@pytest.mark.parametrize("url", ["", "h:80", "ftp://h", "http://"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match="is not an http"):
        Target.parse(url)


def test_a_key_that_would_end_its_header_is_refused() -> None:
    with pytest.raises(ValueError, match="API key"):
        Requests(Target.parse("http://h"), "k\r\nX: y")
