"""The OpenAPI description: valid, complete, and true of what the code answers."""

from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from holdfast.api_keys import SCOPES
from holdfast.http import answers, openapi, statistics
from holdfast.http.problems import CODES
from holdfast.http.routes import ROUTES, Route
from holdfast.lists import Entry
from holdfast.model import Account, Grant, Hold, Limits, Member, Movement, Receipt
from holdfast.statistics import Forecast, Usage

DOCUMENT = openapi.build(ROUTES)
RECEIPT = Receipt(3, 7, "c" * 40, 2)
AT_MS = 1_763_625_600_123


def operation_of(route: Route) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][route.path][route.method.lower()]
    return found


def check(model: str, document: Any) -> None:
    """Raises where `document` is not what the description says, an unknown field included."""
    schema = {"$ref": f"#/components/schemas/{model}", "components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(document)
    known = DOCUMENT["components"]["schemas"][model]["properties"]
    assert set(document) <= set(known)


def test_it_is_valid() -> None:
    assert not list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors())


def test_it_is_written_once() -> None:
    assert orjson.loads(openapi.text(tuple(ROUTES))) == DOCUMENT
    assert openapi.text(tuple(ROUTES)) is openapi.text(tuple(ROUTES))


def test_it_describes_every_route_and_nothing_else() -> None:
    described = {
        (path, method.upper(), operation["operationId"])
        for path, operations in DOCUMENT["paths"].items()
        for method, operation in operations.items()
    }
    assert described == {(route.path, route.method, route.name) for route in ROUTES}
    assert len({route.name for route in ROUTES}) == len(ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_a_route_says_what_it_needs(route: Route) -> None:
    operation = operation_of(route)
    assert operation["summary"]
    named = {(each["in"], each["name"]): each for each in operation["parameters"]}
    assert {name for place, name in named if place == "path"} == set(route.params)
    key = named.get(("header", "Idempotency-Key"))
    assert (key is not None) is (route.key != "none")
    if key is not None:
        assert key["required"] is (route.key == "required")
    assert ("requestBody" in operation) is route.has_body
    assert ("security" in operation) is bool(route.scopes)
    assert route.scopes <= set(SCOPES)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_a_route_says_what_it_answers(route: Route) -> None:
    responses = operation_of(route)["responses"]
    assert ("201" in responses) is route.made
    told = "\n".join(answer["description"] for answer in responses.values())
    for code in route.errors:
        assert f"`{code}`" in told
        assert str(CODES[code].status) in responses
    if route.scopes:
        assert {"401", "403", "422", "500", "503"} <= set(responses)


def test_components_are_used_and_there() -> None:
    text = orjson.dumps(DOCUMENT).decode()
    for name in DOCUMENT["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text, f"{name} is used by nothing"


# ── what the code answers is what is described ───────────────────────────────────────────────────


def hold(**changes: Any) -> Hold:
    values: dict[str, Any] = {
        "id": "h-1",
        "account": "acme",
        "member": None,
        "state": "held",
        "amount": 40,
        "committed": 0,
        "remaining": 40,
        "uncollected": 0,
        "late": False,
        "created_ms": AT_MS,
        "deadline_ms": AT_MS + 900_000,
        "available": 60,
        "held": 40,
        "metadata": None,
        "replayed": False,
        "receipt": RECEIPT,
    }
    return Hold(**values | changes)


@pytest.mark.parametrize(
    "changes", [{}, {"member": "ann", "metadata": {"a": 1}, "state": "committed", "late": True}]
)
def test_a_hold_is_as_described(changes: dict[str, Any]) -> None:
    answer = answers.hold_answer(hold(**changes))
    check("HoldAnswer", answer)
    assert answer["created_at"] == "2025-11-20T08:00:00.123Z"
    assert answer["expires_at"] == "2025-11-20T08:15:00.123Z"
    assert answer["version"] == RECEIPT.version


@pytest.mark.parametrize("kind", ["charge", "grant", "adjust", "refund"])
def test_a_movement_is_as_described(kind: Any) -> None:
    movement = Movement(
        kind=kind,
        id="m-1",
        account="acme",
        amount=5,
        uncollected=2,
        created_ms=AT_MS,
        available=60,
        held=0,
        of="h-1",
        member="ann",
        source="promo",
        metadata=None,
        replayed=True,
        receipt=RECEIPT,
    )
    answer = answers.movement_answer(movement)
    check("MovementAnswer", answer)
    assert ("uncollected" in answer) is (kind == "charge")
    assert ("of" in answer) is (kind == "refund")
    assert answer.get("outcome") == ("replay" if kind == "grant" else None)


def test_an_account_is_as_described() -> None:
    account = Account(
        account="acme",
        status="active",
        available=60,
        held=40,
        spent=0,
        granted=100,
        refunded=0,
        forfeited=0,
        debt=0,
        overdraft_limit=0,
        limits=Limits(daily_limit=5),
        low_balance=None,
        plan="pro",
        metadata={"tier": 1},
        used_today=0,
        used_this_month=0,
        open_holds=1,
        version=3,
        grants=[Grant("g-1", 10, 0, AT_MS)],
    )
    answer = answers.account_answer(account)
    check("AccountAnswer", answer)
    assert answer["limits"]["daily_limit"] == 5
    assert answer["limits"]["max_open_holds"] is None


def test_a_member_is_as_described() -> None:
    check("MemberAnswer", answers.member_answer(Member("acme", "ann", 1, None, None, 0, 0)))


def test_an_entry_is_as_described() -> None:
    entry = Entry(1, 7, "open", None, None, None, None, 0, 0, AT_MS, AT_MS, "r-1", "key:a", {})
    check("EntryAnswer", answers.entry_answer(entry))


@pytest.mark.parametrize(
    ("usage", "named"),
    [
        (Usage(("day",), 20260131, "", "", 1, 2, 3), {"day": "2026-01-31"}),
        (Usage(("member",), 0, "ann", "", 1, 2, 3), {"member": "ann"}),
        (Usage(("member",), 0, "", "", 1, 2, 3), {"member": None}),
        (Usage(("model",), 0, "", "", 1, 2, 3), {"model": None}),
        (
            Usage(("day", "model"), 20260131, "", "small", 1, 2, 3),
            {"day": "2026-01-31", "model": "small"},
        ),
    ],
)
def test_usage_is_as_described(usage: Usage, named: dict[str, Any]) -> None:
    answer: Any = statistics.usage_answer(usage)
    check("UsageAnswer", answer)
    assert answer == {**named, "used": 1, "spent": 2, "calls": 3}


@pytest.mark.parametrize("ends_ms", [AT_MS, None])
def test_a_forecast_is_as_described(ends_ms: int | None) -> None:
    forecast = Forecast(60, "low", 7, 86_400_000 * 15 // 2, ends_ms)
    answer: Any = statistics.forecast_answer("acme", forecast)
    check("ForecastAnswer", answer)
    assert answer["basis_days"] == 7.5
    assert (answer["runs_out_at"] is None) is (ends_ms is None)
