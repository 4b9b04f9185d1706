"""Endpoints that events are sent to, and what became of each delivery; at Postgres itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from holdfast.cli.incidents import By, operator
from holdfast.cli.output import (
    DONE,
    USAGE,
    Failure,
    facts,
    moment,
    more,
    note,
    refused,
    show,
    show_json,
    table,
    undecided,
)
from holdfast.cli.places import After, Json, Limit, database_configuration, database_pool, run

if TYPE_CHECKING:
    from holdfast.audit import Caller
    from holdfast.deliveries import Delivery
    from holdfast.endpoints import Endpoint

endpoint = typer.Typer(help="Where events are sent: webhooks.", no_args_is_help=True)
delivery = typer.Typer(help="Events on their way to endpoints.", no_args_is_help=True)

EndpointId = Annotated[str, typer.Argument(metavar="ID", help="Of `endpoint list`.")]

# One attempt lasts 10 s at most, and a worker begins it within half a second.
_TEST_S = 15.0
_TEST_POLL_S = 0.1


def _caller(by: str | None) -> Caller:
    from holdfast.audit import Caller  # noqa: PLC0415

    return Caller(operator(by))


# ── endpoint ─────────────────────────────────────────────────────────────────────────────────────


@endpoint.command("add")
def add_endpoint(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to POST events: https.")],
    *,
    kinds: Annotated[
        str, typer.Option("--kinds", help="`all`, or some, such as hold.expired,incident.opened.")
    ] = "all",
    description: Annotated[
        str, typer.Option("--description", help="Whose it is: shown in lists.")
    ] = "",
    by: By = None,
    as_json: Json = False,
) -> int:
    """Register an endpoint. Its secret is shown now, and never again."""

    async def work() -> tuple[Endpoint, str]:
        from holdfast import endpoints  # noqa: PLC0415
        from holdfast.webhooks import ALL  # noqa: PLC0415

        wanted = [ALL] if kinds == "all" else kinds.replace(" ", "").split(",")
        config = database_configuration()
        private = config.endpoints_private
        async with database_pool(config) as pool:
            return await endpoints.add(pool, _caller(by), url, wanted, description, private=private)

    return _show_secret(*run(work()), as_json=as_json)


def _show_secret(made: Endpoint, secret: str, *, as_json: bool) -> int:
    if as_json:
        show_json({**_described(made), "secret": secret})
        return DONE
    show(secret)
    note(f"this is the secret of endpoint {made.id}; nobody can show it again")
    return DONE


@endpoint.command("list")
def list_endpoints(after: After = None, limit: Limit = 100, as_json: Json = False) -> int:
    """All endpoints, without their secrets; disabled ones too."""

    async def work() -> list[Endpoint]:
        from holdfast import endpoints  # noqa: PLC0415

        async with database_pool(database_configuration()) as pool:
            return await endpoints.page(pool, after or "", limit + 1)

    found = run(work())
    cursor = found[limit - 1].id if len(found) > limit else None
    if as_json:
        show_json({"data": [_described(each) for each in found[:limit]], "next": cursor})
        return DONE
    rows = [
        (
            *(each.id, each.url, ", ".join(each.kinds), each.description),
            each.disabled_at and f"{moment(each.disabled_at)}, {each.disabled_why}",
        )
        for each in found[:limit]
    ]
    columns = ("id", "url", "kinds", "description", "disabled")
    show(table(columns, rows, folds={"url", "kinds", "description", "disabled"}))
    more(cursor)
    return DONE


@endpoint.command("remove")
def remove_endpoint(endpoint_id: EndpointId, *, by: By = None, as_json: Json = False) -> int:
    """Remove an endpoint; what was on its way to it is sent no more."""
    return _changed("remove", endpoint_id, by, as_json)


@endpoint.command("disable")
def disable_endpoint(endpoint_id: EndpointId, *, by: By = None, as_json: Json = False) -> int:
    """Send nothing to an endpoint until it is enabled; what was on its way waits."""
    return _changed("disable", endpoint_id, by, as_json)


@endpoint.command("enable")
def enable_endpoint(endpoint_id: EndpointId, *, by: By = None, as_json: Json = False) -> int:
    """Send to an endpoint again, first what has been waiting."""
    return _changed("enable", endpoint_id, by, as_json)


def _changed(
    action: Literal["remove", "disable", "enable"],
    endpoint_id: str,
    by: str | None,
    as_json: bool,
) -> int:
    async def work() -> Endpoint:
        from holdfast import endpoints  # noqa: PLC0415

        changes = {
            "remove": endpoints.remove,
            "disable": endpoints.disable,
            "enable": endpoints.enable,
        }
        async with database_pool(database_configuration()) as pool:
            return await changes[action](pool, _caller(by), endpoint_id)

    changed = run(work())
    if as_json:
        show_json(_described(changed))
    else:
        show(facts({"endpoint": changed.id, "url": changed.url, "now": f"{action}d"}))
    return DONE


@endpoint.command("rotate")
def rotate_endpoint(endpoint_id: EndpointId, *, by: By = None, as_json: Json = False) -> int:
    """Give an endpoint a new secret, shown now; the old one signs beside it for 24 hours."""

    async def work() -> tuple[Endpoint, str]:
        from holdfast import endpoints  # noqa: PLC0415

        async with database_pool(database_configuration()) as pool:
            return await endpoints.rotate(pool, _caller(by), endpoint_id)

    return _show_secret(*run(work()), as_json=as_json)


@endpoint.command("test")
def test_endpoint(endpoint_id: EndpointId, *, by: By = None, as_json: Json = False) -> int:
    """Let a worker send an event to an endpoint now, and wait for what it answers."""

    async def work() -> Delivery:
        from holdfast import deliveries, endpoints  # noqa: PLC0415

        async with database_pool(database_configuration()) as pool:
            number = await endpoints.send_test(pool, _caller(by), endpoint_id)
            found = await deliveries.find(pool, number)
            try:
                async with asyncio.timeout(_TEST_S):
                    while not found.attempts:
                        await asyncio.sleep(_TEST_POLL_S)
                        found = await deliveries.find(pool, number)
            except TimeoutError:
                return found
            return found

    found = run(work())
    if not found.attempts:
        raise undecided(f"delivery {found.id} was not tried yet: does `holdfast settle` run?")
    if as_json:
        show_json(_told(found))
    if found.state != "delivered":
        raise refused(f"delivery {found.id} failed: {found.last_error}")
    if not as_json:
        show(f"delivered, it answered {found.last_status}")
    return DONE


def _described(made: Endpoint) -> dict[str, Any]:
    return {
        "id": made.id,
        "url": made.url,
        "kinds": made.kinds,
        "description": made.description,
        "created_at": made.created_at,
        "disabled_at": made.disabled_at,
        "disabled_why": made.disabled_why,
        "old_secret_until": made.old_secret_until,
    }


# ── delivery ─────────────────────────────────────────────────────────────────────────────────────


@delivery.command("list")
def list_deliveries(
    *,
    state: Annotated[
        Literal["pending", "delivered", "dead"] | None, typer.Option("--state")
    ] = None,
    endpoint_id: Annotated[
        str | None, typer.Option("--endpoint", metavar="ID", help="Only those to this one.")
    ] = None,
    after: Annotated[
        int | None, typer.Option("--after", min=1, help="Go on where a list ended: its `next`.")
    ] = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> int:
    """Deliveries, newest first."""

    async def work() -> list[Delivery]:
        from holdfast import deliveries  # noqa: PLC0415

        async with database_pool(database_configuration()) as pool:
            return await deliveries.page(
                pool, state=state, endpoint=endpoint_id, before=after, limit=limit + 1
            )

    found = run(work())
    cursor = found[limit - 1].id if len(found) > limit else None
    if as_json:
        show_json({"data": [_told(each) for each in found[:limit]], "next": cursor})
        return DONE
    rows = [
        (
            *(each.id, moment(each.queued_at), each.kind, each.endpoint, each.state),
            *(each.attempts, each.last_error),
        )
        for each in found[:limit]
    ]
    columns = ("id", "since", "kind", "endpoint", "state", "attempts", "why")
    show(table(columns, rows, numbers={"id", "attempts"}, folds={"why"}))
    more(cursor)
    return DONE


@delivery.command("resend")
def resend(
    number: Annotated[int | None, typer.Argument(metavar="ID", min=1, max=2**63 - 1)] = None,
    *,
    all_dead: Annotated[bool, typer.Option("--all-dead", help="All that were given up.")] = False,
    by: By = None,
    as_json: Json = False,
) -> int:
    """Send again what is over: one delivery, or all dead ones; with all their attempts."""
    if (number is None) is not all_dead:
        raise Failure("name one delivery, or --all-dead", USAGE)

    async def work() -> int:
        from holdfast import deliveries  # noqa: PLC0415

        async with database_pool(database_configuration()) as pool:
            if number is None:
                return await deliveries.resend_dead(pool, _caller(by))
            await deliveries.resend(pool, _caller(by), number)
            return 1

    count = run(work())
    if as_json:
        show_json({"resent": count})
    else:
        show(f"{count} on the way again")
    return DONE


def _told(found: Delivery) -> dict[str, Any]:
    return {
        "id": found.id,
        "event": found.event,
        "kind": found.kind,
        "account": found.account,
        "endpoint": found.endpoint,
        "state": found.state,
        "attempts": found.attempts,
        "queued_at": found.queued_at,
        "next_try_at": found.next_try_at if found.state == "pending" else None,
        "ended_at": found.ended_at,
        "last_status": found.last_status,
        "last_error": found.last_error,
    }
