"""One exchange: a request comes in, is read, checked and answered. The ASGI application itself.

    request ─▶ route ─▶ API key ─▶ ids, scope ─▶ key, body ─▶ endpoint ─▶ ledger ─▶ answer
                 └────────┴───────────┴─────────────┴────────────┴──▶ refusal ─▶ problem document

Every call passes through `Exchange.__call__`, so it is plain ASGI: no request or response objects,
no middleware, one pass over the headers. What is no route of ours goes `outside`, to Starlette.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Final

import orjson

from holdfast.api_keys import ApiKey
from holdfast.errors import HoldfastError, MethodNotAllowed, OverloadedError
from holdfast.http import problems
from holdfast.http.bodies import Form, parse_body, parse_object, parse_query
from holdfast.http.problems import HeaderList
from holdfast.http.requests import (
    NOBODY,
    Call,
    Gone,
    Headers,
    Service,
    check_scope,
    read_body,
    read_durability,
    read_key,
    read_token,
    read_traceparent,
    refuse_doubled,
    request_ids,
)
from holdfast.http.routes import Route, Router

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_REPLAYED: Final = (b"idempotency-replayed", b"true")


class Exchange:
    """The application. `service` is set while it serves (app.py's lifespan)."""

    def __init__(self, router: Router, outside: ASGIApp) -> None:
        self.service: Service | None = None
        self._router = router
        self._outside = outside
        self._give_id = request_ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._router.find(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await self._outside(scope, receive, send)
            return
        started = perf_counter()
        methods, ids = found
        method = scope["method"]
        route = methods.get("GET" if method == "HEAD" else method)
        pairs: list[tuple[bytes, bytes]] = scope["headers"]
        headers: Headers = dict(pairs)
        request_id = self._give_id(headers.get(b"x-request-id"))
        service, api_key = self.service, NOBODY
        try:
            if len(headers) != len(pairs):
                refuse_doubled(pairs)
            if route is None:
                raise _not_allowed(method, methods)
            if service is None:
                raise OverloadedError("the service is starting or stopping")
            if route.scopes:
                token = read_token(headers)
                known = service.api_keys.known(token)
                api_key = known if known is not None else await service.api_keys.find(token)
            client = scope.get("client")
            call = Call(service, api_key, request_id, client and client[0])
            if ids:
                call.take_ids(ids)
            if route.scopes:
                check_scope(api_key, route.scopes)
            form = await _read_form(call, route, headers, scope, receive)
            answer = await route.endpoint(call, form)
            status, payload = answer.status, answer.encode()
            lines: HeaderList = [(b"content-type", answer.media_type)]
            result = "ok"
            if answer.replayed:
                lines.append(_REPLAYED)
                result = "replay"
        except Gone:
            return
        except Exception as error:
            name = "none" if route is None else route.name
            refusal = problems.refusal_of(error, name, request_id)
            status, result = refusal.status, refusal.code
            payload, lines = _problem(refusal, request_id, api_key)
        lines.append((b"content-length", b"%d" % len(payload)))
        lines.append((b"x-request-id", request_id.encode()))
        await send({"type": "http.response.start", "status": status, "headers": lines})
        await send({"type": "http.response.body", "body": payload})
        if route is not None and service is not None:
            service.timers[route.name].observe(result, perf_counter() - started)


async def _read_form(
    call: Call, route: Route, headers: Headers, scope: Scope, receive: Receive
) -> Form:
    """What the caller sent: key and preferences into the call, body or query as its model."""
    if not route.has_body:
        return parse_query(route.form, scope["query_string"])
    if route.key != "none":
        call.key = read_key(headers)
    if route.settles:
        call.durability = read_durability(headers)
        call.traceparent = read_traceparent(headers)
    if route.signature:
        signature = headers.get(route.signature.lower().encode())
        return parse_object(
            route.form,
            {
                "content": await read_body(receive, headers, route.max_body_bytes),
                "signature": None if signature is None else signature.decode("latin-1"),
            },
        )
    return parse_body(route.form, await read_body(receive, headers, route.max_body_bytes))


def _problem(refusal: HoldfastError, request_id: str, api_key: ApiKey) -> tuple[bytes, HeaderList]:
    """The document and the headers of a refusal."""
    document = problems.document(refusal, request_id, may_read="read" in api_key.scopes)
    return orjson.dumps(document, default=str), [
        (b"content-type", problems.MEDIA_TYPE),
        *problems.headers(refusal),
    ]


def _not_allowed(method: str, methods: dict[str, Route]) -> MethodNotAllowed:
    allow = sorted({*methods, "HEAD"} if "GET" in methods else methods)
    return MethodNotAllowed(f"{method[:16]} is not a method of this path", allow=allow)
