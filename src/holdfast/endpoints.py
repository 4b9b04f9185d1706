"""Endpoints: where an operator wants events sent, kept in Postgres.

    enabled ──disable, or the receiver answers 410──▶ disabled ──enable──▶ enabled
       └────────────────────────remove─────────────────────┘

Nothing is sent to one that is disabled, and nothing new is kept for it; what was on its way waits.
A secret is shown when it is made and never again. A rotation leaves the old one signing beside the
new one for a day, in which receivers change over.

Whatever changes an endpoint is audited, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from holdfast import audit
from holdfast.audit import Caller
from holdfast.errors import InvalidRequest, NotFound
from holdfast.postgres import Pool
from holdfast.queries import sql
from holdfast.telemetry import log
from holdfast.webhooks import (
    ALL,
    MAX_ENDPOINTS,
    TEST_KIND,
    check_kinds,
    check_url,
    make_secret,
)

ROTATION_S: Final = 86_400
MAX_DESCRIPTION: Final = 256


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint, without its secrets."""

    id: str
    url: str
    description: str
    kinds: list[str]
    created_at: datetime
    disabled_at: datetime | None
    disabled_why: str | None
    old_secret_until: datetime | None
    """Until when the secret before the last rotation signs as well."""


def _endpoint(row: Any) -> Endpoint:
    return Endpoint(**dict(row))


async def add(
    pool: Pool,
    caller: Caller,
    url: str,
    kinds: Sequence[str] = (ALL,),
    description: str = "",
    *,
    private: bool,
) -> tuple[Endpoint, str]:
    """Register an endpoint. Returns it with its secret, which nobody can learn again.

    `private` as in `check_url`. Raises InvalidRequest for a URL, a kind or a description that is
    none and where there are 16 endpoints already, StoreUnavailable.
    """
    try:
        check_url(url, private=private)
    except ValueError as error:
        raise InvalidRequest.of_field("url", str(error)) from None
    try:
        kinds = check_kinds(kinds)
    except ValueError as error:
        raise InvalidRequest.of_field("kinds", str(error)) from None
    if len(description) > MAX_DESCRIPTION or "\0" in description:
        raise InvalidRequest.of_field(
            "description", f"must be {MAX_DESCRIPTION} characters or less"
        )
    secret = make_secret()
    async with pool.acquire() as conn, conn.transaction():
        # Two at the same moment may make one too many: the bound is for the load, not for money.
        row = await conn.fetchrow(
            sql("insert_endpoint"), url, description, kinds, secret, MAX_ENDPOINTS
        )
        if row is None:
            raise InvalidRequest(f"there are {MAX_ENDPOINTS} endpoints already: remove one first")
        made = _endpoint(row)
        await _record(conn, caller, "add", made.id, after=_audited(made))
    log("endpoint_added", endpoint=made.id, kinds=kinds)
    return made, secret


async def page(pool: Pool, after: str = "", limit: int = 100) -> list[Endpoint]:
    """Endpoints by id, those after `after`, disabled ones too. Raises StoreUnavailable."""
    return [_endpoint(row) for row in await pool.fetch(sql("list_endpoints"), after, limit)]


async def remove(pool: Pool, caller: Caller, endpoint_id: str) -> Endpoint:
    """Remove an endpoint; what was on its way to it is sent no more.

    Raises NotFound, StoreUnavailable.
    """
    gone = await _change(pool, caller, "remove", endpoint_id)
    log("endpoint_removed", endpoint=endpoint_id)
    return gone


async def disable(pool: Pool, caller: Caller, endpoint_id: str) -> Endpoint:
    """Send nothing more to an endpoint, until it is enabled. Raises NotFound, StoreUnavailable."""
    why = f"disabled by {caller.actor}"
    changed = await _change(pool, caller, "disable", endpoint_id, why)
    log("endpoint_disabled", endpoint=endpoint_id, why=why)
    return changed


async def enable(pool: Pool, caller: Caller, endpoint_id: str) -> Endpoint:
    """Send to an endpoint again, first what has been waiting. Raises NotFound, StoreUnavailable."""
    changed = await _change(pool, caller, "enable", endpoint_id)
    log("endpoint_enabled", endpoint=endpoint_id)
    return changed


async def rotate(pool: Pool, caller: Caller, endpoint_id: str) -> tuple[Endpoint, str]:
    """Give an endpoint a new secret, which is returned and shown this once.

    The old one signs as well for a day; one that an earlier rotation left behind no longer does.
    Raises NotFound, StoreUnavailable.
    """
    secret = make_secret()
    changed = await _change(pool, caller, "rotate", endpoint_id, secret, float(ROTATION_S))
    log("endpoint_rotated", endpoint=endpoint_id)
    return changed, secret


async def send_test(pool: Pool, caller: Caller, endpoint_id: str) -> int:
    """Send an event of kind `endpoint.test` to one endpoint; answers the number of its delivery.

    A worker delivers it as any other. Raises NotFound, also where the endpoint is disabled, and
    StoreUnavailable.
    """
    async with pool.acquire() as conn, conn.transaction():
        number: int | None = await conn.fetchval(sql("test_endpoint"), endpoint_id, TEST_KIND)
        if number is None:
            raise NotFound(f"there is no endpoint {endpoint_id!r} that is enabled")
        await _record(conn, caller, "test", endpoint_id, after={"delivery": number})
    return number


async def _change(
    pool: Pool, caller: Caller, action: str, endpoint_id: str, *arguments: Any
) -> Endpoint:
    """Run the statement `<action>_endpoint` on one endpoint, and audit it."""
    async with pool.acquire() as conn, conn.transaction():
        row = await conn.fetchrow(sql(_STATEMENTS[action]), endpoint_id, *arguments)
        if row is None:
            raise NotFound(f"there is no endpoint {endpoint_id!r}")
        changed = _endpoint(row)
        told = _audited(changed)
        if action == "remove":
            await _record(conn, caller, action, endpoint_id, before=told)
        else:
            await _record(conn, caller, action, endpoint_id, after=told)
    return changed


_STATEMENTS: Final[Mapping[str, str]] = {
    "remove": "remove_endpoint",
    "disable": "disable_endpoint",
    "enable": "enable_endpoint",
    "rotate": "rotate_endpoint",
}


def _audited(endpoint: Endpoint) -> dict[str, Any]:
    """What an audit keeps of an endpoint. The query of a URL may hold a receiver's secret."""
    return {
        "url": endpoint.url.partition("?")[0],
        "kinds": endpoint.kinds,
        "disabled_why": endpoint.disabled_why,
    }


async def _record(
    conn: Any,
    caller: Caller,
    action: str,
    endpoint_id: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    subject = f"endpoint:{endpoint_id}"
    row = audit.Row(caller, f"endpoint.{action}", subject, before=before, after=after)
    await audit.record_rows(conn, [row])
