"""One world for the whole suite, and two ways in. Everything runs in one event loop."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import uvicorn

from holdfast import api_keys
from holdfast.http.app import build_app
from holdfast.ledger import Ledger, open_ledger
from tests.conformance.drivers import Driver, HttpDriver, LedgerDriver
from tests.conformance.world import World
from tests.stack import Stack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "conformance" in item.path.parts:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def session_world(valkey_server: Any, postgres_server: Any) -> AsyncIterator[World]:
    async with Stack(
        valkey_server.url,
        postgres_server.url,
        shards=4,
        leases=False,
        test_clock=True,
        call_timeout_ms=10_000,
    ) as stack:
        world = World(stack)
        await world.start()
        yield world
        await world.close()


@pytest_asyncio.fixture(loop_scope="session")
async def world(session_world: World) -> AsyncIterator[World]:
    # The loop stands still while fixtures that are not asynchronous start servers.
    await session_world.lease_all()
    await session_world.settle_backlog()
    yield session_world
    await session_world.thaw()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def inner(session_world: World) -> AsyncIterator[Ledger]:
    ledger = await open_ledger(session_world.stack.config)
    yield ledger
    await ledger.close()


@pytest_asyncio.fixture(loop_scope="session")
async def ledger(inner: Ledger) -> LedgerDriver:
    return LedgerDriver(inner)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def http(session_world: World, inner: Ledger) -> AsyncIterator[HttpDriver]:
    """The API on a free port, served by uvicorn as in production."""
    config = session_world.stack.config
    scopes = ("read", "spend", "credit", "admin")
    _, token = await api_keys.create(inner.pool, "conformance", scopes)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        options = uvicorn.Config(build_app(config), log_level="warning", access_log=False)
        server = uvicorn.Server(options)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        driver = HttpDriver(f"http://127.0.0.1:{listener.getsockname()[1]}", token)
        await driver.ready()
        yield driver
        await driver.close()
        server.should_exit = True
        await serving


@pytest.fixture(params=["ledger", "http"])
def api(request: pytest.FixtureRequest, ledger: LedgerDriver, http: HttpDriver) -> Driver:
    return ledger if request.param == "ledger" else http
