"""An API that stays with one Redis whatever becomes of the others: clients of an old primary.

    async with outpost(place) as there:
        place.turn_to(replica)
        ...                                  # `there.api` is still with the old primary

It goes by hops of its own, `outpost-redis` and, for its worker where it has one,
`outpost-postgres`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from holdfast.children import free_port
from tests.faults.load import Load
from tests.faults.place import Place
from tests.faults.program import HOST, Program, together
from tests.faults.proxy import FaultProxy, Rule
from tests.faults.under_load import Background

__all__ = ["Outpost", "outpost"]


@dataclass
class Outpost:
    """An API and, maybe, a worker, which `Place.turn_to` does not turn away."""

    api: Program
    postgres: FaultProxy
    """Before its worker's Postgres, if it has one. The API goes to Postgres as the others do."""

    def lose_postgres(self, kind: Literal["refuse", "half-open"]) -> None:
        """Part the worker from Postgres, as an isolated one is."""
        self.postgres.rule = Rule(kind)
        self.postgres.cut_all()

    @asynccontextmanager
    async def clients(
        self, load: Background, callers: int, durability: str | None = None
    ) -> AsyncIterator[Background]:
        """Callers of this API alone on the accounts of `load`, in the same history."""
        own = Load(
            [self.api.url],
            load.place.key,
            load.history,
            seed=len(load.history),  # draws of their own
            accounts=0,
            durability=durability,
        )
        own.purses = load.load.purses
        background = Background(load.place, own, callers)
        try:
            yield background
        finally:
            await background.cancel()


@asynccontextmanager
async def outpost(place: Place, *, worker: bool = False) -> AsyncIterator[Outpost]:
    """An outpost at `place.redis`, which serves when the block begins and ends with it."""
    redis = FaultProxy(place.redis.address)
    postgres = FaultProxy(place.postgres.address)
    programs: list[Program] = []
    try:
        await together(redis.start(), postgres.start())
        redis_url = f"redis://{HOST}:{redis.port}/0"
        port = free_port()
        api = Program(
            "outpost-api",
            ("serve", "--host", HOST, "--port", str(port)),
            directory=place.directory,
            env=place.environment("api", redis_url=redis_url),
            url=f"http://{HOST}:{port}",
        )
        programs.append(api)
        if worker:
            env = place.environment(
                redis_url=redis_url, database_url=place.postgres.dsn_at(postgres.port)
            )
            programs.append(
                Program("outpost-worker", ("settle",), directory=place.directory, env=env)
            )
        await together(*(program.start() for program in programs))
        await api.ready()
        yield Outpost(api, postgres)
    finally:
        await together(*(program.kill() for program in programs))
        await together(redis.close(), postgres.close())
