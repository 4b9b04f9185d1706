"""The OpenAPI 3.1 description, made out of the route table and the models it names."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from holdfast.http.problems import CODES
from holdfast.keys import ID_PATTERN

if TYPE_CHECKING:
    from holdfast.http.routes import Route

_REF: Final = "#/components/schemas/{model}"
_ANY_CALL: Final = (
    *("unauthenticated", "forbidden", "invalid_request"),
    *("store_unavailable", "overloaded", "internal_error"),
)
_WITH_BODY: Final = ("malformed_json", "body_too_large")
_WITH_KEY: Final = ("idempotency_key_invalid",)

_ABOUT: Final = """\
Reserve credits before a model is called, commit what the call really cost, release what was not \
needed. Amounts are integers of microcredits (1 credit = 1,000,000); times are RFC 3339 in UTC.

Every POST that makes something takes an Idempotency-Key. Repeat a call with its key as often as \
you like: it happens once, and every repeat is answered what the first one was, marked \
`Idempotency-Replayed: true`. A refusal is a problem document (RFC 9457); `code` is stable, \
`retryable` says whether the same call may succeed later."""

_PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Problem",
    "description": "A refusal (RFC 9457). Some codes add members, such as `limit` or `store`.",
    "required": ["type", "title", "status", "detail", "code", "request_id", "retryable"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what happened, for people"},
        "code": {"type": "string", "enum": sorted(CODES)},
        "request_id": {"type": "string", "description": "what to quote to an operator"},
        "retryable": {"type": "boolean", "description": "the same call may succeed later"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}

_ID_WORDS: Final = {
    "account": "the account's id",
    "hold": "the hold's id: the key it was made with",
    "member": "the member's id",
    "name": "a name",
}


@cache  # one table, one description
def text(routes: tuple[Route, ...]) -> bytes:
    """The description as JSON."""
    return orjson.dumps(build(routes))


def build(routes: Sequence[Route]) -> dict[str, Any]:
    """The description as a document."""
    schemas = _Schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "holdfast", "version": version("holdfast"), "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": schemas.components | {"Problem": _PROBLEM},
            "securitySchemes": {
                "api_key": {"type": "http", "scheme": "bearer", "description": "hf_<id>_<secret>"}
            },
        },
    }


class _Generator(GenerateJsonSchema):
    """Schemas without what pydantic adds: titles made of names, and nulls for what is left out."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        made = super().default_schema(schema)
        if "default" in made and made["default"] is None:
            del made["default"]
        return made


class _Schemas:
    """The JSON schema of every body and answer, with what they share under components."""

    def __init__(self, routes: Sequence[Route]) -> None:
        inputs: list[tuple[Any, Any, TypeAdapter[Any]]] = []
        for route in routes:
            if route.has_body:
                inputs.append((route.name, "validation", TypeAdapter(route.form)))
            if route.answer is not None:
                inputs.append((route.name, "serialization", TypeAdapter(route.answer)))
        self._found, shared = TypeAdapter.json_schemas(
            inputs, ref_template=_REF, schema_generator=_Generator
        )
        self.components: dict[str, Any] = shared["$defs"]

    def body(self, route: Route) -> dict[str, Any]:
        return self._found[route.name, "validation"]

    def body_is_required(self, route: Route) -> bool:
        """Whether `{}`, and so an empty body, is refused."""
        name = self.body(route)["$ref"].rpartition("/")[2]
        return bool(self.components[name].get("required"))

    def answer(self, route: Route) -> dict[str, Any]:
        return self._found[route.name, "serialization"]


def _query(route: Route) -> dict[str, dict[str, Any]]:
    """The schema of each query parameter; what may be left out is not null, it is not there."""
    schema = route.form.model_json_schema(schema_generator=_Generator)
    found: dict[str, dict[str, Any]] = {}
    for name, described in schema.get("properties", {}).items():
        kinds = [kind for kind in described.pop("anyOf", []) if kind != {"type": "null"}]
        found[name] = described | (kinds[0] if kinds else {})
    return found


def _operation(route: Route, schemas: _Schemas) -> dict[str, Any]:
    words = inspect.getdoc(route.endpoint) or ""
    summary, _, rest = words.partition("\n\n")
    summary = " ".join(summary.split())
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": summary.removesuffix("."),
        "parameters": _parameters(route),
        "responses": _responses(route, schemas),
    }
    if rest:
        operation["description"] = rest
    if route.scopes:
        operation["security"] = [{"api_key": []}]
        scopes = " or ".join(f"`{scope}`" for scope in sorted(route.scopes))
        operation["description"] = f"{rest}\n\nScope: {scopes}.".strip()
    if route.has_body:
        operation["requestBody"] = {
            "required": schemas.body_is_required(route),
            "content": {"application/json": {"schema": schemas.body(route)}},
        }
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    id_schema = {"type": "string", "pattern": f"^{ID_PATTERN}$"}
    found: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _ID_WORDS[name],
            "schema": id_schema,
        }
        for name in route.params
    ]
    if not route.has_body:
        for name, schema in _query(route).items():
            found.append({"name": name, "in": "query", "required": False, "schema": schema})
    if route.key != "none":
        found.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": route.key == "required",
                "description": "names this piece of work; the same key, the same effect, once",
                "schema": id_schema,
            }
        )
    if route.signature:
        found.append(
            {
                "name": route.signature,
                "in": "header",
                "required": True,
                "description": "the provider's signature of the body",
                "schema": {"type": "string"},
            }
        )
    if route.settles:
        found.append(
            {
                "name": "Holdfast-Durability",
                "in": "header",
                "required": False,
                "description": "what the answer must survive; the service's default if left out",
                "schema": {"type": "string", "enum": ["memory", "local", "settled"]},
            }
        )
    return found


def _responses(route: Route, schemas: _Schemas) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "done"}
    if route.answer is not None:
        success["content"] = {"application/json": {"schema": schemas.answer(route)}}
    if route.key != "none":
        success["headers"] = {
            "Idempotency-Replayed": {
                "description": "`true` where an earlier call with this key did it",
                "schema": {"type": "string", "enum": ["true"]},
            }
        }
    responses = {"200": success}
    if route.made:
        responses["200"] = success | {"description": "was there, or was done by an earlier call"}
        responses["201"] = success | {"description": "made"}
    for status, codes in _refusals(route).items():
        responses[str(status)] = {
            "description": "\n".join(f"`{code}`: {CODES[code].meaning}" for code in codes),
            "content": {
                "application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}
            },
        }
    return responses


def _refusals(route: Route) -> dict[int, list[str]]:
    """The codes that a route can answer, by status."""
    codes = [*route.errors, "invalid_request", "internal_error"]
    if route.scopes:
        codes += _ANY_CALL
    if route.has_body:
        codes += _WITH_BODY
    if route.key != "none":
        # A commit or an extend needs its key only now and then, but then it is missing too.
        codes += [*_WITH_KEY, *(["idempotency_key_missing"] if route.name != "release" else [])]
    if route.name == "readyz":
        codes.append("store_unavailable")
    found: dict[int, list[str]] = {}
    for code in sorted(set(codes), key=codes.index):
        found.setdefault(CODES[code].status, []).append(code)
    return dict(sorted(found.items()))
