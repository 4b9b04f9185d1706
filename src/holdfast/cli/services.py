"""The long-running programs: dev, serve, settle; and migrate, which makes their database."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from holdfast.cli.incidents import operator
from holdfast.cli.output import DONE, misconfigured, note, show, show_json, undecided
from holdfast.cli.places import Json, configuration
from holdfast.cli.start import check_redis, check_stores

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from holdfast.config import Config

DEFAULT_PORT: Final = 8080

# Above the 60 s of common load balancers: whichever side closes an idle connection may close it
# just when a request is on its way, whose outcome is then unknown to the caller.
_KEEP_ALIVE_S: Final = 75
# A request takes 2.5 s at most, a `settled` one as long as it may wait, 2 s by default. With what
# closing the stores may take, 3 s, this stays below the 10 s after which supervisors kill.
_DRAIN_S: Final = 6

Port = Annotated[int, typer.Option("--port", min=1, max=65_535, help="TCP port.")]
DevPort = Annotated[int, typer.Option("--port", min=0, max=65_535, help="TCP port; 0: a free one.")]
Workers = Annotated[int, typer.Option("--workers", min=1, max=64, help="API processes.")]


def dev(
    *,
    port: DevPort = DEFAULT_PORT,
    data: Annotated[
        Path | None, typer.Option("--data", help="Where data is kept. [HOLDFAST_DATA, or ./.data]")
    ] = None,
    api_workers: Annotated[
        int, typer.Option("--api-workers", min=1, max=64, help="API processes.")
    ] = 1,
) -> int:
    """Run everything on this machine: Valkey, Postgres, the API and the worker.

    REDIS_URL and DATABASE_URL name stores that are used instead. Ctrl-C ends it.
    """
    from holdfast.dev import run  # noqa: PLC0415

    config = configuration()
    return run(port, data or config.data, api_workers)


# ── serve ────────────────────────────────────────────────────────────────────────────────────────


def serve(
    *,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Port = DEFAULT_PORT,
    workers: Workers = 1,
) -> int:
    """Run the API until SIGTERM or SIGINT.

    It starts while a store is away, and answers 503 until that is back; a wrong setting ends it
    with exit code 78.
    """
    import uvicorn  # noqa: PLC0415

    config = configuration()
    _check_address(host, port)
    _look(config)
    # uvicorn answers the last calls, and then raises the signal again as if it had not: this ends
    # the program as it should end, with what is to be done on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(DONE))
    with ExitStack() as stack:
        if workers > 1 and config.metrics_dir is None:
            # The workers are processes of their own, and read this when they load their settings.
            folder = tempfile.TemporaryDirectory(prefix="holdfast-metrics-")
            os.environ["HOLDFAST_METRICS_DIR"] = stack.enter_context(folder)
        uvicorn.run(
            "holdfast.cli.services:application",
            factory=True,
            host=host,
            port=port,
            workers=workers,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            access_log=False,
            server_header=False,
            # Where a caller is, for the audit: who is no proxy of ours could write anything there.
            proxy_headers=config.proxies is not None,
            forwarded_allow_ips=config.proxies,
            log_config=_server_logs(config.log_level),
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_DRAIN_S,
        )
    return DONE


def _check_address(host: str, port: int) -> None:
    """Raises Failure where nobody can listen there; uvicorn would tell it in its own way."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise misconfigured(f"cannot listen on {host}:{port}: {error.strerror}") from None


def application() -> ASGIApp:
    """What each API process serves; uvicorn calls this in it."""
    from holdfast import config  # noqa: PLC0415
    from holdfast.collector import spare_what_lives_long  # noqa: PLC0415
    from holdfast.http.app import build_app  # noqa: PLC0415

    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    spare_what_lives_long()
    return build_app(config.load())


def _end_with(parent: Any) -> None:
    """End this process when the one that started it has gone: it would hold the port for ever."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


class JsonLines(logging.Formatter):
    """What the server under the API says, in the form of our own log."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "event": "server",
            "message": record.getMessage(),
            "level": record.levelname.lower(),
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _server_logs(level: str) -> dict[str, Any]:
    """The settings of `logging` for uvicorn, which says nothing of interest below a warning."""
    quiet = level if level in ("debug", "error") else "warning"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": f"{__name__}.JsonLines"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"handlers": ["stderr"], "level": quiet.upper()},
    }


def _look(config: Config) -> None:
    """The checks of a start. Raises Failure; a store that is away is only said."""
    for why in asyncio.run(check_stores(config)):
        note(f"{why}; starting all the same")


# ── settle and migrate ───────────────────────────────────────────────────────────────────────────


def settle() -> int:
    """Run the settlement worker until SIGTERM or SIGINT.

    Any number of them share the shards. A wrong setting ends it with exit code 78.
    """
    import uvloop  # noqa: PLC0415

    from holdfast.telemetry import configure_logs  # noqa: PLC0415

    config = configuration()
    _look(config)
    configure_logs(config.log_level)
    uvloop.run(_settle(config))
    return DONE


async def _settle(config: Config) -> None:
    from settlement.schema import SchemaError  # noqa: PLC0415
    from settlement.worker import run_worker  # noqa: PLC0415

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await run_worker(config, stop)
    except SchemaError as error:  # of a database that was away when this was started
        raise misconfigured(str(error)) from None


def migrate(
    *,
    app_role: Annotated[
        str | None,
        typer.Option(
            "--app-role",
            metavar="NAME",
            help="Give this role of Postgres what serve and settle need, and nothing else.",
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Bring the database up to this release. Repeating it changes nothing.

    The first run fixes HOLDFAST_SHARDS and HOLDFAST_PREFIX for the life of the database.
    """
    applied = asyncio.run(_migrate(configuration(), app_role))
    if as_json:
        show_json({"applied": applied} | ({"app_role": app_role} if app_role else {}))
        return DONE
    show(*([f"applied {name}" for name in applied] or ["the schema is up to date"]))
    if app_role:
        show(f"{app_role} may do what serve and settle need")
    return DONE


async def _migrate(config: Config, app_role: str | None) -> list[str]:
    """Names of what was applied. Raises Failure."""
    import asyncpg  # noqa: PLC0415

    from settlement import roles, schema  # noqa: PLC0415

    if config.database_url is None:
        raise misconfigured("no Postgres is named: set HOLDFAST_DATABASE_URL")
    # Before anything is made in Postgres: a Redis that holdfast will refuse is found here first.
    if config.redis_url is not None and (why := await check_redis(config)):
        raise misconfigured(why)
    try:
        conn = await asyncpg.connect(config.database_url)
        try:
            applied = await schema.migrate(conn, shards=config.shards, prefix=config.prefix)
            if app_role:
                await roles.grant_to(conn, app_role, operator(None))
        finally:
            await conn.close()
        return applied
    except schema.SchemaError as error:
        raise misconfigured(str(error)) from None
    except (asyncpg.InterfaceError, ValueError) as error:
        raise misconfigured(f"HOLDFAST_DATABASE_URL: {error}") from None
    except (
        OSError,
        TimeoutError,
        asyncpg.PostgresConnectionError,
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.InvalidCatalogNameError,
        asyncpg.InsufficientPrivilegeError,
        asyncpg.OperatorInterventionError,
    ) as error:
        raise misconfigured(f"Postgres cannot be migrated: {error}") from None
    except asyncpg.PostgresError as error:
        raise undecided(f"a migration failed and was rolled back: {error}") from error
