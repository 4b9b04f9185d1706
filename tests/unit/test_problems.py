"""Problem documents: their members, their headers, what they do not tell, and their pages."""

import json
from typing import Any

import pytest

from holdfast import errors, replies
from holdfast.codes import Code
from holdfast.errors import HoldfastError
from holdfast.http import problems

NAMED: list[HoldfastError] = [
    errors.InvalidRequest.of_field("amount", "is required"),
    errors.KeyMissing("x"),
    errors.KeyInvalid("x"),
    errors.MalformedJson("x"),
    errors.SignatureInvalid("x"),
    errors.BodyTooLarge("x"),
    errors.AmountLimit("x"),
    errors.RefundExceeds("x"),
    errors.KeyReused("x"),
    errors.Unauthenticated("x"),
    errors.Forbidden("x"),
    errors.InsufficientCredits("x"),
    errors.LimitExceeded("x", limit="daily_limit"),
    errors.CommitExceedsFunds("x"),
    errors.NotFound("x"),
    errors.NotFound.hold("a", "h"),
    errors.UnknownAccount("a", 3),
    errors.MethodNotAllowed("x", allow=["GET"]),
    errors.RateLimited("x"),
    errors.StoreUnavailable("redis", "x"),
    errors.OverloadedError("x"),
    errors.UnknownOutcome("x"),
    problems.InternalError("x"),
]
# A refusal's numbers: which argument, limit or field; two are enough for every code.
REFUSED = [
    replies.refusal("commit", code, [1, 1]) for code in replies.REFUSALS if code != Code.NOT_ZERO
]


@pytest.mark.parametrize("error", [*NAMED, *REFUSED], ids=lambda error: error.code)
def test_every_refusal_is_a_whole_document(error: HoldfastError) -> None:
    document = problems.document(error, "req-1", may_read=False)
    assert document["type"] == f"/problems/{document['code']}"
    assert document["title"] and "\n" not in document["title"]
    assert document["status"] == error.status == problems.CODES[error.code].status
    assert document["detail"] == error.detail
    assert document["request_id"] == "req-1"
    assert document["retryable"] is error.retryable
    json.dumps(document)


@pytest.mark.parametrize("error", [*NAMED, *REFUSED], ids=lambda error: error.code)
def test_headers_say_whether_to_come_back(error: HoldfastError) -> None:
    headers = dict(problems.headers(error))
    assert (b"retry-after" in headers) is (error.status in (429, 503))
    assert (headers.get(b"x-should-retry") == b"false") is (error.status == 402)
    assert (headers.get(b"www-authenticate") == b"Bearer") is (error.status == 401)
    assert (b"allow" in headers) is (error.status == 405)
    assert (headers.get(b"connection") == b"close") is (error.status == 413)


def leaves(kind: type[HoldfastError]) -> list[type[HoldfastError]]:
    below = [leaf for child in kind.__subclasses__() for leaf in leaves(child)]
    return [kind, *below]


def test_no_class_of_errors_is_left_out_here() -> None:
    # Those that are never raised themselves: their subclasses are, or a code is given to them.
    abstract = {HoldfastError, errors.PaymentRequired, errors.Unavailable, errors.Conflict}
    ours = {kind for kind in leaves(HoldfastError) if kind.__module__.startswith("holdfast.")}
    assert ours - abstract == {type(error) for error in NAMED}


def test_balances_are_rounded_down_for_those_who_may_not_read_them() -> None:
    error = errors.InsufficientCredits("x", available=1_239_999, short=-1, limit="daily_limit")
    told = problems.document(error, "req-1", may_read=False)
    assert (told["available"], told["short"], told["limit"]) == (1_230_000, -10_000, "daily_limit")
    assert problems.document(error, "req-1", may_read=True)["available"] == 1_239_999
    assert error.members["available"] == 1_239_999


def test_a_member_cannot_pose_as_a_standard_one() -> None:
    error = errors.InsufficientCredits("x", status=200, code="fine", request_id="other")
    document = problems.document(error, "req-1", may_read=True)
    assert (document["status"], document["code"]) == (402, "insufficient_credits")
    assert document["request_id"] == "req-1"


def test_a_bug_is_logged_and_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(problems, "log", lambda event, **values: logged.append((event, values)))
    refusal = problems.refusal_of(ValueError("secret words"), "reserve", "req-1")
    assert (refusal.status, refusal.code, refusal.retryable) == (500, "internal_error", True)
    assert "secret" not in json.dumps(problems.document(refusal, "req-1", may_read=True))
    [(event, values)] = logged
    assert event == "call_broke"
    assert (values["call"], values["request_id"]) == ("reserve", "req-1")


def test_a_refusal_stays_what_it_is() -> None:
    error = errors.InsufficientCredits("x")
    assert problems.refusal_of(error, "reserve", "req-1") is error


@pytest.mark.parametrize("code", sorted(problems.CODES))
def test_every_code_has_a_page(code: str) -> None:
    page = problems.page(code)
    assert page is not None
    assert code in page.decode() and "<p></p>" not in page.decode()


def test_another_code_has_none() -> None:
    assert problems.page("teapot") is None
