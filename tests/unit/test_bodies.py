"""Bodies and queries: what is accepted, and which field a refusal names."""

import json
from datetime import UTC, date, datetime
from typing import Any

import pytest

from holdfast.errors import InvalidRequest, MalformedJson
from holdfast.http import bodies
from holdfast.http.bodies import parse_body, parse_object, parse_query
from holdfast.http.fields import time_ms
from holdfast.http.statistics import UsagePage
from holdfast.model import MAX_AMOUNT


def refused(form: type[bodies.Form], body: bytes) -> list[str]:
    """The fields that a refusal of `body` names, in order."""
    with pytest.raises(InvalidRequest) as caught:
        parse_body(form, body)
    assert caught.value.status == 422
    errors = caught.value.members["errors"]
    for error in errors:
        assert f"{error['field']}: {error['message']}" in caught.value.detail
    return [error["field"] for error in errors]


def message(form: type[bodies.Form], body: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse_body(form, body)
    return str(caught.value.members["errors"][0]["message"])


def test_a_whole_reserve() -> None:
    body = parse_body(
        bodies.Reserve,
        b'{"amount": 40, "min_amount": 10, "ttl_seconds": 60, "member": "ann",'
        b' "description": "a chat", "metadata": {"model": "m", "n": [1, 2.5, null, "\\u00e9"]}}',
    )
    assert (body.amount, body.min_amount, body.ttl_seconds, body.member) == (40, 10, 60, "ann")
    assert body.metadata == {"model": "m", "n": [1, 2.5, None, "é"]}


@pytest.mark.parametrize(
    "amount",
    [
        *("-1", "0", "1.5", "1.0", "1e3", '"5"', "true", "NaN", "1e400", "-Infinity", "[]", "{}"),
        *(str(2**53), str(10**16), str(MAX_AMOUNT + 1), "9" * 400),
    ],
)
@pytest.mark.parametrize("form", [bodies.Reserve, bodies.Charge, bodies.Grant])
def test_an_amount_that_is_none_names_the_amount(form: type[bodies.Form], amount: str) -> None:
    assert refused(form, f'{{"amount": {amount}}}'.encode()) == ["amount"]


@pytest.mark.parametrize("amount", [1, MAX_AMOUNT])
def test_the_bounds_of_an_amount_are_amounts(amount: int) -> None:
    assert parse_body(bodies.Reserve, b'{"amount": %d}' % amount).amount == amount


def test_a_commit_may_take_nothing_but_not_less() -> None:
    assert parse_body(bodies.Commit, b'{"amount": 0}').amount == 0
    assert refused(bodies.Commit, b'{"amount": -1}') == ["amount"]


@pytest.mark.parametrize("ttl", ["0", "-1", "86401", str(10**18), "1.5", '"60"'])
def test_a_ttl_is_1_to_86400_seconds(ttl: str) -> None:
    assert refused(bodies.Reserve, f'{{"amount": 1, "ttl_seconds": {ttl}}}'.encode()) == [
        "ttl_seconds"
    ]


def test_null_counts_as_not_sent() -> None:
    sent = {"amount": 1, "min_amount": None, "member": None, "metadata": None, "usage": None}
    assert parse_body(bodies.Reserve, json.dumps(sent).encode()) == parse_body(
        bodies.Reserve, b'{"amount": 1, "min_amount": null}'
    )


@pytest.mark.parametrize("form", [bodies.Reserve, bodies.Charge])
@pytest.mark.parametrize(
    "model",
    ["gpt-4o", "meta-llama/Llama-3.1-8B", "ft:gpt-4o:acme::7", "c@2024+_", "m" * 128],
)
def test_usage_names_a_model(form: type[bodies.Reserve | bodies.Charge], model: str) -> None:
    body = json.dumps({"amount": 1, "usage": {"model": model}}).encode()
    usage = parse_body(form, body).usage
    assert usage is not None
    assert usage.model == model


@pytest.mark.parametrize("form", [bodies.Reserve, bodies.Charge])
@pytest.mark.parametrize(
    ("usage", "fields"),
    [
        ({}, ["usage.model"]),
        ({"model": None}, ["usage.model"]),
        ({"model": ""}, ["usage.model"]),
        ({"model": "a b"}, ["usage.model"]),
        ({"model": 'a"'}, ["usage.model"]),
        ({"model": "a\n"}, ["usage.model"]),
        ({"model": "m" * 129}, ["usage.model"]),
        ({"model": "m", "input_tokens": 5}, ["usage.input_tokens"]),
        ("m", ["usage"]),
    ],
)
def test_usage_names_a_model_and_nothing_else(
    form: type[bodies.Form], usage: Any, fields: list[str]
) -> None:
    assert refused(form, json.dumps({"amount": 1, "usage": usage}).encode()) == fields


def test_an_extend_asks_for_something() -> None:
    assert refused(bodies.Extend, b"{}") == ["ttl_seconds"]


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_an_empty_body_is_an_empty_object(body: bytes) -> None:
    assert parse_body(bodies.Commit, body).amount is None
    assert refused(bodies.Reserve, body) == ["amount"]


@pytest.mark.parametrize(
    "body", [b"{", b"amount=5", b'{"amount": 1,}', b"\xff", b'{"amount": 1} x', b'{"a": "\\ud800"}']
)
def test_what_is_no_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedJson) as caught:
        parse_body(bodies.Reserve, body)
    assert (caught.value.status, caught.value.code) == (400, "malformed_json")


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"5", b"null"])
def test_json_that_is_no_object_names_the_body(body: bytes) -> None:
    assert refused(bodies.Reserve, body) == ["body"]


def test_an_unknown_field_is_refused_with_the_known_ones() -> None:
    assert refused(bodies.Release, b'{"reson": "typo"}') == ["reson"]
    assert message(bodies.Release, b'{"reson": "typo"}').endswith("reason, description, metadata")


@pytest.mark.parametrize(
    ("form", "field"),
    [
        (bodies.Reserve, "quote_id"),
        (bodies.Commit, "usage"),
        (bodies.Charge, "quote_id"),
    ],
)
def test_what_a_later_release_takes_is_refused_and_named(
    form: type[bodies.Form], field: str
) -> None:
    body = json.dumps({"amount": 1, field: {"id": "x"}}).encode()
    assert refused(form, body) == [field]
    assert "not available yet" in message(form, body)
    assert field not in form.model_json_schema()["properties"]


def test_several_errors_are_all_named() -> None:
    assert refused(bodies.Reserve, b'{"amount": "5", "member": "a b", "x": 1}') == [
        "amount",
        "member",
        "x",
    ]


@pytest.mark.parametrize("member", ["", "a b", "a/b", "{a}", "a" * 129, "é", "a\n"])
def test_a_member_is_an_id(member: str) -> None:
    body = json.dumps({"amount": 1, "member": member}).encode()
    assert refused(bodies.Reserve, body) == ["member"]
    assert "A-Z a-z 0-9" in message(bodies.Reserve, body)


# ── metadata and words ───────────────────────────────────────────────────────────────────────────


def metadata(value: Any) -> bytes:
    return json.dumps({"amount": 1, "metadata": value}).encode()


def test_metadata_is_at_most_2048_bytes_of_json() -> None:
    fits = {"k": "x" * (2048 - len('{"k":""}'))}
    assert parse_body(bodies.Reserve, metadata(fits)).metadata == fits
    assert refused(bodies.Reserve, metadata({"k": fits["k"] + "x"})) == ["metadata"]


@pytest.mark.parametrize(
    "value",
    [
        '{"a": NaN}',
        '{"a": [{"b": 1e400}]}',
        '{"a": 123456789012345678901234567890}',
        '{"a": "\\u0000"}',
        '{"a": {"\\u0000": 1}}',
        "[1]",
        '"text"',
    ],
)
def test_metadata_holds_nothing_that_a_store_would_not_keep(value: str) -> None:
    assert refused(bodies.Reserve, f'{{"amount": 1, "metadata": {value}}}'.encode()) == ["metadata"]


def test_metadata_may_hold_null_and_what_only_looks_like_nul() -> None:
    value = {"a": None, "null": "null", "b": "\\u0000"}
    assert parse_body(bodies.Reserve, metadata(value)).metadata == value


def test_nesting_without_end_is_malformed() -> None:
    deep = b'{"amount": 1, "metadata": ' + b'{"a":' * 1000 + b"1" + b"}" * 1000 + b"}"
    with pytest.raises(MalformedJson):
        parse_body(bodies.Reserve, deep)


def test_words_are_bounded_and_hold_no_nul() -> None:
    assert parse_body(bodies.Release, b'{"reason": ""}').reason == ""
    assert refused(bodies.Release, json.dumps({"reason": "x" * 1025}).encode()) == ["reason"]
    assert refused(bodies.Release, b'{"description": "a\\u0000b"}') == ["description"]


# ── times ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ("2030-01-31T12:00:00.001Z", 1_896_091_200_001),
        ("2030-01-31T12:00:00.0019999Z", 1_896_091_200_001),
        ("2030-01-31t14:00:00+02:00", 1_896_091_200_000),
    ],
)
def test_times_are_rfc_3339(text: str, ms: int) -> None:
    assert time_ms(text) == ms


@pytest.mark.parametrize(
    "text",
    [
        *("tomorrow", "2030-01-31", "2030-01-31T12:00:00", "2030-02-30T00:00:00Z", "", "0"),
        *("20300131T120000Z", "2030-01-31T12:00:60Z", "2030-W05-4T12:00:00Z"),
        "1960-01-01T00:00:00Z",
        "9999-12-31T23:59:59-00:01",  # of the year 10000 in UTC, in which no answer can be written
    ],
)
def test_what_is_no_time_names_the_field(text: str) -> None:
    body = json.dumps({"amount": 1, "expires_at": text}).encode()
    assert refused(bodies.Grant, body) == ["expires_at"]


# ── settings ─────────────────────────────────────────────────────────────────────────────────────


def test_settings_tell_null_from_left_out() -> None:
    body = parse_body(bodies.AccountSettings, b'{"daily_limit": null, "plan": "pro"}')
    assert {name: getattr(body, name) for name in body.model_fields_set} == {
        "daily_limit": None,
        "plan": "pro",
    }


@pytest.mark.parametrize("status", ['"deleted"', "null", "1"])
def test_a_status_is_one_of_three(status: str) -> None:
    assert refused(bodies.AccountSettings, f'{{"status": {status}}}'.encode()) == ["status"]
    assert "'active', 'frozen' or 'closed'" in message(
        bodies.AccountSettings, f'{{"status": {status}}}'.encode()
    )


# ── batches ──────────────────────────────────────────────────────────────────────────────────────


def operation(**fields: Any) -> dict[str, Any]:
    return {"op": "reserve", "account": "a", "key": "k", "body": {"amount": 1}} | fields


def test_a_batch_is_1_to_1000_operations() -> None:
    def batch(count: int) -> bytes:
        return json.dumps({"operations": [operation()] * count}).encode()

    assert len(parse_body(bodies.Batch, batch(1000)).operations) == 1000
    assert refused(bodies.Batch, batch(1001)) == ["operations"]
    assert refused(bodies.Batch, batch(0)) == ["operations"]


def test_a_bad_operation_is_named_by_its_place() -> None:
    body = json.dumps({"operations": [operation(), operation(op="buy"), operation(x=1)]}).encode()
    assert refused(bodies.Batch, body) == ["operations[1].op", "operations[2].x"]


def test_the_body_of_an_operation_is_as_strict_as_alone() -> None:
    body = parse_body(
        bodies.Batch,
        b'{"operations": [{"op": "reserve", "account": "a", "body": {"amount": 1.0}}]}',
    )
    with pytest.raises(InvalidRequest) as caught:
        parse_object(bodies.Reserve, body.operations[0].body or {})
    assert [error["field"] for error in caught.value.members["errors"]] == ["amount"]


# ── queries ──────────────────────────────────────────────────────────────────────────────────────


def test_a_page_has_defaults_and_bounds() -> None:
    assert parse_query(bodies.Page, b"").limit == 100
    page = parse_query(bodies.HoldsPage, b"after=a~3&limit=1000&state=held")
    assert (page.after, page.limit, page.state) == ("a~3", 1000, "held")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (b"limit=0", "limit"),
        (b"limit=1001", "limit"),
        (b"limit=many", "limit"),
        (b"limit=1&limit=2", "limit"),
        (b"stat=held", "stat"),
        (b"state=open", "state"),
        (b"after=" + b"x" * 301, "after"),
        (b"after=%00", "after"),
    ],
)
def test_a_wrong_parameter_is_named(query: bytes, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_query(bodies.HoldsPage, query)
    assert [error["field"] for error in caught.value.members["errors"]] == [field]


@pytest.mark.parametrize("query", [b"a=%ff", b"\xff=1", b"&".join([b"a=1"] * 40)])
def test_a_malformed_query_is_refused(query: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_query(bodies.Page, query)


def test_usage_covers_31_days_unless_told_otherwise() -> None:
    query = parse_query(UsagePage, b"to=2026-03-31")
    assert query.days() == (date(2026, 3, 1), date(2026, 3, 31))
    first, last = parse_query(UsagePage, b"").days()
    assert last - first == date(2026, 3, 31) - date(2026, 3, 1)
    assert abs((last - datetime.now(UTC).date()).days) <= 1  # midnight may have passed meanwhile


@pytest.mark.parametrize("query", [b"from=2026-02-01&to=2026-01-31", b"from=2020-01-01"])
def test_usage_runs_forward_for_at_most_a_year(query: bytes) -> None:
    with pytest.raises(InvalidRequest, match="from"):
        parse_query(UsagePage, query).days()


@pytest.mark.parametrize("query", [b"from=2026-02-30", b"from=yesterday", b"from_=2026-01-01"])
def test_usage_takes_days_of_the_calendar(query: bytes) -> None:
    with pytest.raises(InvalidRequest, match="from"):
        parse_query(UsagePage, query)
