"""Connections of a worker to Postgres, set up so that a worker that was stopped blocks nobody."""

from __future__ import annotations

import asyncpg

from holdfast.config import Config
from settlement.queries import Pool

# A worker that is stopped inside a transaction keeps its rows from everybody else: Postgres ends
# its session after this, well above the milliseconds between two of its statements.
_IDLE_IN_TRANSACTION_MS = 2000
# Waiting longer than this for a row means that something holds it that will not let go soon; the
# service that waits reports it and tries again.
_LOCK_WAIT_MS = 5000
# A statement of a settle takes milliseconds, or waits for a row; a server that is silent for longer
# than that has gone.
_STATEMENT_S = _LOCK_WAIT_MS / 1000 + 1.0
_CONNECT_S = 2.0


async def open_pool(config: Config, size: int | None = None) -> Pool:
    """A pool for `config.database_url`, of `config.pool_size` unless another size is given. It
    connects when it is first used."""
    return await asyncpg.create_pool(
        config.database_url,
        min_size=0,  # so that a worker starts, and waits, while Postgres is away
        max_size=size or config.pool_size,
        timeout=_CONNECT_S,
        command_timeout=_STATEMENT_S,
        server_settings={
            "application_name": "holdfast-settle",
            # Compiling a plan costs more than the short statements of a settle ever win by it.
            "jit": "off",
            "idle_in_transaction_session_timeout": str(_IDLE_IN_TRANSACTION_MS),
            "lock_timeout": str(_LOCK_WAIT_MS),
            "timezone": "UTC",
        },
    )
