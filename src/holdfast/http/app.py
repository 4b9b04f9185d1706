"""The API as one ASGI application: `build_app(config)`.

uvicorn ─▶ Exchange ─┬─▶ routes of the table, served by plain ASGI
                     └─▶ Starlette: life of the process, /docs, and 404 for the rest
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from holdfast.api_keys import ApiKeys
from holdfast.config import Config
from holdfast.errors import HoldfastError, InvalidRequest, MethodNotAllowed, NotFound
from holdfast.http import problems
from holdfast.http.exchange import Exchange
from holdfast.http.requests import Service, request_ids
from holdfast.http.routes import ROUTES, Router
from holdfast.ledger import Ledger, open_ledger
from holdfast.telemetry import Telemetry, log

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_STATIC: Final = Path(__file__).parent / "static"
# How far the wire's counters may be behind for whoever reads them through another process.
_COUNT_S: Final = 1.0


def build_app(
    config: Config,
    *,
    ledger_opener: Callable[[Config], Awaitable[Ledger]] = open_ledger,
    outside: Iterable[BaseRoute] = (),
) -> ASGIApp:
    """The application for one worker process. `outside` adds routes that are not of the API."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with _service(config, await ledger_opener(config)) as service:
            exchange.service = service
            log("api_started")
            try:
                yield
            finally:
                exchange.service = None
        log("api_stopped")

    docs = Mount("/docs", StaticFiles(directory=_STATIC, html=True))
    starlette = Starlette(
        routes=[docs, *outside],
        exception_handlers={HTTPException: _problem, Exception: _problem},
        lifespan=lifespan,
    )
    exchange = Exchange(Router(ROUTES), starlette)
    return exchange


@asynccontextmanager
async def _service(config: Config, ledger: Ledger) -> AsyncIterator[Service]:
    """All that endpoints work with, from its start to its end."""
    telemetry = Telemetry.open(config)
    api_keys = ApiKeys(ledger.pool, config.api_key_cache_s)
    await api_keys.start()
    counting = asyncio.create_task(_count_traffic(telemetry, ledger))
    try:
        yield Service(
            config=config,
            ledger=ledger,
            api_keys=api_keys,
            telemetry=telemetry,
            timers={route.name: telemetry.timer(route.name) for route in ROUTES},
            routes={route.name: route for route in ROUTES},
        )
    finally:
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)
        await api_keys.close()
        await ledger.close()


async def _count_traffic(telemetry: Telemetry, ledger: Ledger) -> None:
    while True:
        telemetry.count_traffic(ledger.shards.wire.traffic)
        await asyncio.sleep(_COUNT_S)


_give_id = request_ids()


async def _problem(request: Request, error: Exception) -> Response:
    """What Starlette refuses, as a problem document like all others."""
    request_id = _give_id(request.headers.get("x-request-id", "").encode("latin-1"))
    refusal = problems.refusal_of(_translated(request, error), "outside", request_id)
    document = problems.document(refusal, request_id, may_read=False)
    headers = {name.decode(): value.decode() for name, value in problems.headers(refusal)}
    return Response(
        orjson.dumps(document),
        refusal.status,
        headers | {"x-request-id": request_id},
        problems.MEDIA_TYPE.decode(),
    )


def _translated(request: Request, error: Exception) -> Exception:
    if not isinstance(error, HTTPException):
        return error
    if error.status_code == 404:
        return NotFound(f"there is nothing at {request.url.path[:256]}")
    if error.status_code == 405:
        return MethodNotAllowed(
            f"{request.method[:16]} is not a method of this path", allow=["GET", "HEAD"]
        )
    return InvalidRequest(error.detail) if error.status_code < 500 else HoldfastError(error.detail)
