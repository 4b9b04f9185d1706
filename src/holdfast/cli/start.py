"""What is looked at before a program starts: settings that are wrong whatever the stores do later.

A wrong setting ends the program with one line and exit code 78, so that whoever supervises it does
not start it for ever. A store that is only away is no setting: the service starts, answers 503, and
goes on when the store is back. `migrate` needs an answer, and ends without one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from holdfast.cli.output import misconfigured

if TYPE_CHECKING:
    from holdfast.config import Config

# A start must not wait for a store longer than a caller would.
_LOOK_S: Final = 2.0
_CALL_TIMEOUT_MS: Final = 1000

# What a failover or a full disk changes, and nobody's settings do. Vetting keeps such a node
# closed; a program that ended because of it would have to be started again by hand.
_PASSING: Final = frozenset({"role", "aof_last_write_status"})


async def check_stores(config: Config) -> list[str]:
    """Look at both stores for at most 2 s; answers which could not be looked at, and why.

    Raises Failure for a setting that is wrong.
    """
    # Redis first: its settings also keep `migrate` from what a missing schema asks for.
    looks = (check_redis(config), check_schema(config))
    unseen: list[str] = []
    for found in await asyncio.gather(*looks, return_exceptions=True):
        if isinstance(found, BaseException):
            raise found
        unseen += [found] if found else []
    return unseen


async def check_redis(config: Config) -> str:
    """Why Redis could not be looked at, or ''. Raises Failure for a setting that is wrong."""
    from holdfast.wire import Wire, WireError  # noqa: PLC0415
    from settlement.redis_settings import inspect  # noqa: PLC0415

    if config.redis_url is None:
        raise misconfigured("no Redis is named: set HOLDFAST_REDIS_URL")
    try:
        wire = Wire(config.redis_url, timeout_ms=_CALL_TIMEOUT_MS)
    except ValueError as error:
        raise misconfigured(f"HOLDFAST_REDIS_URL: {error}") from None
    try:
        async with asyncio.timeout(_LOOK_S):
            await wire.connect()
            for node in wire.nodes():
                report = await inspect(node, config.durability, config.redis_vouched)
                for finding in report.refusals:
                    if finding.setting not in _PASSING:
                        raise misconfigured(f"Redis {report.address}: {finding}")
    except TimeoutError:
        return f"Redis does not answer within {_LOOK_S:.0f} s"
    except WireError as error:
        return f"Redis cannot be reached: {error}"
    finally:
        await wire.close()
    return ""


async def check_schema(config: Config) -> str:
    """Why Postgres could not be looked at, or ''. Raises Failure for a schema that does not fit."""
    import asyncpg  # noqa: PLC0415

    from settlement import schema  # noqa: PLC0415

    if config.database_url is None:
        raise misconfigured("no Postgres is named: set HOLDFAST_DATABASE_URL")
    try:
        async with asyncio.timeout(_LOOK_S):
            conn = await asyncpg.connect(config.database_url)
            try:
                await schema.check(conn, shards=config.shards, prefix=config.prefix)
            finally:
                conn.terminate()  # nothing is under way, and a polite end may take another second
    except schema.SchemaError as error:
        raise misconfigured(str(error)) from None
    except TimeoutError:
        return f"Postgres does not answer within {_LOOK_S:.0f} s"
    except (OSError, asyncpg.PostgresError) as error:
        return f"Postgres cannot be reached: {error}"
    except (asyncpg.InterfaceError, ValueError) as error:
        # asyncpg's word for a URL that it cannot read, which no waiting mends.
        raise misconfigured(f"HOLDFAST_DATABASE_URL: {error}") from None
    return ""
