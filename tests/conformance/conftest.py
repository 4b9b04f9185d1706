"""One world for the whole suite, and two ways in. Everything runs in one event loop."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from holdfast.ledger import open_ledger
from tests.conformance.drivers import Driver, LedgerDriver
from tests.conformance.world import World
from tests.stack import Stack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "conformance" in str(item.path):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def session_world(valkey_server: Any, postgres_server: Any) -> AsyncIterator[World]:
    async with Stack(
        valkey_server.url, postgres_server.url, shards=4, leases=False, test_clock=True
    ) as stack:
        world = World(stack)
        await world.start()
        yield world
        await world.close()


@pytest_asyncio.fixture(loop_scope="session")
async def world(session_world: World) -> AsyncIterator[World]:
    yield session_world
    await session_world.thaw()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def ledger(session_world: World) -> AsyncIterator[LedgerDriver]:
    driver = LedgerDriver(await open_ledger(session_world.stack.config))
    yield driver
    await driver.close()


@pytest_asyncio.fixture(loop_scope="session", params=["ledger"])
async def api(request: pytest.FixtureRequest, ledger: LedgerDriver) -> Driver:
    return ledger
