"""The courier, to real receivers: what it connects to, how long it waits, what it does not do."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from settlement import courier as courier_module
from settlement.courier import Courier, Letter
from tests.receivers import Receiver


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def courier() -> AsyncIterator[Courier]:
    courier = Courier(private=True, room=2)
    yield courier
    await courier.close()


def letter(url: str) -> Letter:
    return Letter(url, ["whsec_" + "A" * 44], "evt_1", "{}")


async def test_a_receiver_that_never_answers(
    courier: Courier, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_module, "TOTAL_S", 0.2)
    receiver.held = asyncio.Event()

    ending = await courier.post(letter(receiver.url))

    assert (ending.status, ending.delivered) == (None, False)
    assert str(ending.error).startswith("no answer within")
    assert len(receiver.posts) == 1


async def test_a_redirect_is_not_followed(courier: Courier, receiver: Receiver) -> None:
    async with Receiver() as other:
        receiver.answers, receiver.location = [307], other.url
        ending = await courier.post(letter(receiver.url))
        assert (ending.status, ending.delivered) == (307, False)
        assert other.posts == []


async def test_nobody_there(courier: Courier) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    ending = await courier.post(letter(f"http://127.0.0.1:{port}/"))
    assert str(ending.error).startswith("cannot connect")
    ending = await courier.post(letter("http://no-such-host.invalid/"))
    assert ending.status is None and ending.error


async def test_a_name_that_leads_inside_is_not_called(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a name with a public and a private address, I expect neither to be asked."""
    resolve = socket.getaddrinfo
    hosts: dict[str, list[str]] = {"hooks.example.com": ["127.0.0.1", "192.0.2.1"]}

    def look(host: str, *arguments: Any, **more: Any) -> Any:
        return [
            found
            for address in hosts.get(host, [host])
            for found in resolve(address, *arguments, **more)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look)
    outside = Courier(private=False, room=2)
    try:
        url = f"https://hooks.example.com:{receiver.port}/"
        for _ in range(2):
            ending = await outside.post(letter(url))
            assert "which is not a public address" in str(ending.error)
            hosts["hooks.example.com"].reverse()
        for url in (receiver.url, "https://169.254.169.254/latest"):
            assert str((await outside.post(letter(url))).error).startswith("ValueError: must")
    finally:
        await outside.close()
    assert receiver.posts == []


async def test_tls_is_asked_for_the_name_and_connected_to_the_address(
    courier: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a name that leads to an address, I expect a handshake that names it there."""
    greeting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting.set_result(await reader.read(4096))
        writer.close()

    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *a, **k: resolve("127.0.0.1" if host.endswith(".test") else host, *a, **k),
    )
    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        ending = await courier.post(letter(f"https://hooks.test:{port}/"))
    assert b"hooks.test" in await greeting
    assert ending.status is None and ending.error


async def test_a_host_is_looked_up_in_the_letters_of_its_url(
    courier: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a name of which older rules make another one, I expect it to be asked for as it is."""
    asked: list[str] = []

    def look_up(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        raise OSError("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    ending = await courier.post(letter("https://xn--strae-oqa.de/hook"))
    assert asked == ["xn--strae-oqa.de"]
    assert ending.status is None
