"""Where commands find the service and the stores: options, the environment, or a running dev.

`holdfast dev` leaves `dev.json` in its data directory (HOLDFAST_DATA, `./.data` if unset) while it
runs; whatever neither an option nor the environment names is taken from there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from holdfast.cli.output import USAGE, Failure, misconfigured, refused, undecided

if TYPE_CHECKING:
    from pydantic import ValidationError

    from holdfast.client import Client
    from holdfast.config import Config
    from holdfast.postgres import Pool
    from holdfast.shards import Shards
    from settlement.state import WorkerState

T = TypeVar("T")

# Somebody waits for the answer, and reads it: two repeats bridge a restart of the service.
_RETRIES = 2
# An operator's command is not the hot path: a slow store may take its time.
_CALL_TIMEOUT_MS = 5000
_STATEMENT_MS = 30_000

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, amounts in integers.")]
Url = Annotated[
    str | None, typer.Option("--url", help="The service. [HOLDFAST_URL, or a running dev]")
]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", help="An API key of it. [HOLDFAST_API_KEY, or dev's]")
]
After = Annotated[str | None, typer.Option("--after", help="Go on where a list ended: its `next`.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many rows.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def configuration() -> Config:
    """The configuration of this process. Raises Failure, naming the variable that is wrong."""
    from pydantic import ValidationError  # noqa: PLC0415

    from holdfast import config  # noqa: PLC0415

    try:
        return config.load()
    except ValidationError as error:
        raise misconfigured(_first_mistake(error)) from None


def _first_mistake(error: ValidationError) -> str:
    mistake = error.errors(include_url=False)[0]
    name = str(mistake["loc"][0]) if mistake["loc"] else ""
    variable = name if name.isupper() else f"HOLDFAST_{name.upper()}"
    return f"{variable} is {str(mistake['input'])[:80]!r}: {mistake['msg']}"


def dev_state(config: Config) -> dict[str, Any]:
    """What a running `holdfast dev` says of itself; empty where none runs."""
    try:
        state = json.loads((config.data / "dev.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def address(url: str | None, api_key: str | None) -> tuple[str, str]:
    """URL and API key of the service. Raises Failure where none is named."""
    config = configuration()
    url = url or config.url
    api_key = api_key or config.api_key
    if url is None:
        dev = dev_state(config)
        url, api_key = dev.get("url"), api_key or dev.get("api_key")
    if url is None:
        raise misconfigured(
            "no service is named: set HOLDFAST_URL and HOLDFAST_API_KEY, or start `holdfast dev`"
        )
    if api_key is None:  # dev's is not sent to whatever else was named
        raise misconfigured(f"no API key for {url}: set HOLDFAST_API_KEY, or give --api-key")
    return url, api_key


def client(url: str | None, api_key: str | None) -> Client:
    """A client of the service. Raises Failure where none is named."""
    from holdfast.client import Client  # noqa: PLC0415

    url, api_key = address(url, api_key)
    try:
        return Client(url, api_key, retries=_RETRIES)
    except ValueError as error:
        raise misconfigured(str(error)) from None


@contextmanager
def service(url: str | None, api_key: str | None) -> Iterator[Client]:
    """A client whose refusals end the command: with 1, or with 2 where nothing is certain."""
    from holdfast.client import errors  # noqa: PLC0415

    with client(url, api_key) as connected:
        try:
            yield connected
        except errors.Unauthenticated as error:
            raise misconfigured(f"the service does not take this API key: {error.detail}") from None
        except errors.OutcomeUnknown as error:
            again = f" with --key {error.key}" if error.key else ""
            raise undecided(f"{error}; it may be repeated{again}") from None
        except (errors.Unavailable, errors.RateLimited, errors.UnexpectedAnswer) as error:
            raise undecided(str(error)) from None
        except errors.HoldfastError as error:
            raise refused(str(error)) from None
        except ValueError as error:  # an id that is none, found before anything was sent
            raise Failure(str(error), USAGE) from None


def store_configuration(*names: str) -> Config:
    """The configuration, with the stores of a running dev where none are configured.

    `names` are those that must be there: `database_url`, `redis_url`; both, if none is named.
    """
    config = configuration()
    dev = dev_state(config)
    urls = {
        "database_url": config.database_url or dev.get("database_url"),
        "redis_url": config.redis_url or dev.get("redis_url"),
    }
    for name in names or urls:
        if urls[name] is None:
            raise misconfigured(
                f"no store is named: set HOLDFAST_{name.upper()}, or start `holdfast dev`"
            )
    return config.model_copy(update=urls)


def database_configuration() -> Config:
    """The same for what needs no Redis."""
    return store_configuration("database_url")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work; what the stores did not answer becomes a Failure."""
    import asyncpg  # noqa: PLC0415

    from holdfast.errors import HoldfastError, Unavailable  # noqa: PLC0415
    from holdfast.telemetry import configure_logs  # noqa: PLC0415
    from holdfast.wire import WireError  # noqa: PLC0415
    from settlement.schema import SchemaError  # noqa: PLC0415

    configure_logs("error")
    try:
        return asyncio.run(work)
    except Unavailable as error:
        raise undecided(error.detail) from error
    except HoldfastError as error:
        raise Failure(f"{error.code}: {error.detail}", 1) from error
    except SchemaError as error:
        raise misconfigured(str(error)) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise undecided(f"Postgres: {error}") from error
    except WireError as error:
        raise undecided(f"Redis: {error}") from error
    except (OSError, TimeoutError) as error:
        raise undecided(f"a store cannot be reached: {error}") from error


@asynccontextmanager
async def database(config: Config) -> AsyncIterator[Any]:
    """One connection to Postgres (asyncpg), whose schema is what this release works with."""
    import asyncpg  # noqa: PLC0415

    from settlement import schema  # noqa: PLC0415

    conn = await asyncpg.connect(
        config.database_url,
        timeout=_CALL_TIMEOUT_MS / 1000,
        server_settings={
            "application_name": "holdfast-cli",
            "statement_timeout": str(_STATEMENT_MS),
            "timezone": "UTC",
        },
    )
    try:
        await schema.check(conn, shards=config.shards, prefix=config.prefix)
        yield conn
    finally:
        await conn.close(timeout=_CALL_TIMEOUT_MS / 1000)


@asynccontextmanager
async def database_pool(config: Config) -> AsyncIterator[Pool]:
    """A pool for what works through one (API keys)."""
    from holdfast.postgres import open_pool  # noqa: PLC0415
    from settlement import schema  # noqa: PLC0415

    pool = await open_pool(config, application_name="holdfast-cli")
    try:
        async with pool.acquire() as conn:
            await schema.check(conn, shards=config.shards, prefix=config.prefix)
        yield pool
    finally:
        await pool.close()


@asynccontextmanager
async def store_pool(config: Config) -> AsyncIterator[Any]:
    """A pool as settlement has it, for what an operator does in its place."""
    from settlement import schema  # noqa: PLC0415
    from settlement.pool import open_pool  # noqa: PLC0415

    pool = await open_pool(config)
    try:
        async with pool.acquire() as conn:
            await schema.check(conn, shards=config.shards, prefix=config.prefix)
        yield pool
    finally:
        pool.terminate()


@asynccontextmanager
async def redis(config: Config) -> AsyncIterator[Shards]:
    """The shards of Redis, connected."""
    from holdfast.shards import Shards  # noqa: PLC0415
    from holdfast.wire import Wire  # noqa: PLC0415

    try:
        wire = Wire(config.redis_url or "", timeout_ms=_CALL_TIMEOUT_MS)
    except ValueError as error:
        raise misconfigured(f"HOLDFAST_REDIS_URL: {error}") from None
    await wire.connect()
    try:
        yield Shards(wire, config.prefix, config.shards, test_clock=config.test_clock)
    finally:
        await wire.close()


@asynccontextmanager
async def worker_state(config: Config) -> AsyncIterator[WorkerState]:
    """Both stores as settlement's own services see them, rows read, nothing claimed."""
    from settlement.state import WorkerState  # noqa: PLC0415

    async with redis(config) as shards, store_pool(config) as pool:
        state = WorkerState(pool, shards, config, "cli")
        await state.refresh()
        yield state
