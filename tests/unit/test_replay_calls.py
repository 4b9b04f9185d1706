"""One call of a replay against a real HTTP server with scripted answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from scripted_service import Reply, ScriptedService, hold_answer, problem, running_service

from holdfast.loadwire import Line, Requests, Target
from holdfast.replay_books import CallRecord
from holdfast.replay_calls import CallMaker, NoOutcomeError, ReplayError, Tally
from holdfast.replay_plan import ReplayOptions


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedService]:
    with running_service() as running:
        yield running


@pytest.fixture
def service(server: ScriptedService) -> ScriptedService:
    server.forget()
    return server


@pytest.fixture
async def line(service: ScriptedService) -> AsyncIterator[Line]:
    made = Line(Target.parse(service.url), timeout_s=5.0)
    yield made
    await made.aclose()


OPTIONS = ReplayOptions(patience_s=20)


def _maker(service: ScriptedService, options: ReplayOptions = OPTIONS) -> tuple[CallMaker, Tally]:
    tally = Tally()
    return CallMaker(options, Requests(Target.parse(service.url), "k"), tally), tally


def _record() -> CallRecord:
    return CallRecord("h1", estimate=40, cost=13)


def _done(**fields: object) -> Reply:
    return Reply(200, hold_answer(state="committed", committed=13, remaining=0, **fields))


async def test_a_call_is_reserved_and_committed(service: ScriptedService, line: Line) -> None:
    service.will_answer(Reply(201, hold_answer()), _done())
    maker, tally = _maker(service)
    record = _record()

    await maker.make(line, "acme", record, fails=False)

    reserve, commit = service.asked
    assert (reserve.path, reserve.key) == ("/v1/accounts/acme/holds", "h1")
    assert reserve.body == {"amount": 40, "ttl_seconds": 900}
    assert commit.path == "/v1/accounts/acme/holds/h1/commit"
    assert commit.body == {"amount": 13, "on_shortfall": "cap"}
    assert (record.reserved, record.committed, record.released) == (40, 13, None)
    assert {name: len(series) for name, series in tally.latency.items()} == {
        "reserve": 1,
        "commit": 1,
        "release": 0,
    }
    assert tally.durability == {"local": 2}
    assert tally.misanswers == []


async def test_a_call_that_fails_is_released(service: ScriptedService, line: Line) -> None:
    maker, _ = _maker(service)
    record = _record()
    await maker.make(line, "acme", record, fails=True)
    assert [each.path.rsplit("/", 1)[-1] for each in service.asked] == ["holds", "release"]
    assert (record.released, record.committed, record.expired) == (40, None, False)


async def test_a_denied_call_ends_there(service: ScriptedService, line: Line) -> None:
    service.will_answer(problem(402, "insufficient_credits"))
    maker, tally = _maker(service)
    record = _record()
    await maker.make(line, "acme", record, fails=False)
    assert len(service.asked) == 1
    assert record.reserved is None
    assert (tally.denied, tally.refused) == (1, 0)
    assert tally.errors == {"insufficient_credits": 1}


async def test_requests_are_repeated_until_their_outcome_is_known(
    service: ScriptedService, line: Line
) -> None:
    service.will_answer(
        Reply(201, hold_answer(), half=True),
        problem(503, "store_unavailable", retryable=True),
        Reply(200, hold_answer()),
        problem(500, "internal_error"),
        Reply(502, "<h1>bad gateway</h1>"),
        problem(503, "outcome_unknown", retryable=True),
        _done(),
    )
    maker, tally = _maker(service)
    record = _record()

    await maker.make(line, "acme", record, fails=False)

    assert [each.key for each in service.asked[:3]] == ["h1"] * 3
    assert len({str(each.body) for each in service.asked[3:]}) == 1
    assert (record.reserved, record.committed, record.unknown) == (40, 13, None)
    assert tally.errors == {
        "connection_lost": 1,
        "store_unavailable": 1,
        "internal_error": 1,
        "outcome_unknown": 2,
    }


@pytest.mark.parametrize(
    ("reply", "uncertain"),
    [
        (Reply(201, hold_answer(), half=True), True),
        (problem(503, "outcome_unknown", retryable=True), True),
        (problem(500, "internal_error"), True),
        (problem(503, "store_unavailable", retryable=True), False),
    ],
)
async def test_patience_ends_and_says_whether_it_may_have_counted(
    service: ScriptedService, line: Line, reply: Reply, uncertain: bool
) -> None:
    service.on_ask = lambda asked: reply
    maker, _ = _maker(service, replace(OPTIONS, patience_s=0.2))
    with pytest.raises(NoOutcomeError) as caught:
        await maker.make(line, "acme", _record(), fails=False)
    assert (caught.value.operation, caught.value.uncertain) == ("reserve", uncertain)
    assert len(service.asked) > 1


async def test_a_longer_wait_than_patience_is_not_begun(
    service: ScriptedService, line: Line
) -> None:
    service.on_ask = lambda asked: problem(
        429, "rate_limited", retryable=True, headers={"retry-after": "3600"}
    )
    maker, _ = _maker(service)
    with pytest.raises(NoOutcomeError):
        await maker.make(line, "acme", _record(), fails=False)
    assert len(service.asked) == 1


async def test_a_rejected_commit_takes_what_the_hold_has(
    service: ScriptedService, line: Line
) -> None:
    record = CallRecord("h1", estimate=40, cost=90)
    service.will_answer(
        Reply(201, hold_answer()),
        problem(402, "commit_exceeds_funds"),
        Reply(200, hold_answer(state="committed", committed=40, remaining=0)),
    )
    maker, tally = _maker(service, replace(OPTIONS, on_shortfall="reject"))
    await maker.make(line, "acme", record, fails=False)
    assert [each.body["amount"] for each in service.asked[1:]] == [90, 40]
    assert record.committed == 40
    assert (tally.over_estimate, tally.shortfalls) == (1, 1)
    assert tally.misanswers == []


async def test_what_a_cap_left_out_is_noted(service: ScriptedService, line: Line) -> None:
    record = CallRecord("h1", estimate=40, cost=90)
    capped = hold_answer(state="committed", committed=70, uncollected=20, remaining=0, late=True)
    service.will_answer(Reply(201, hold_answer()), Reply(200, capped))
    maker, tally = _maker(service)
    await maker.make(line, "acme", record, fails=False)
    assert (record.committed, record.uncollected, record.late) == (70, 20, True)
    assert (tally.over_estimate, tally.shortfalls) == (1, 1)
    assert tally.misanswers == []


async def test_a_release_of_what_had_expired_is_no_release(
    service: ScriptedService, line: Line
) -> None:
    service.will_answer(Reply(201, hold_answer()), Reply(200, hold_answer(state="expired")))
    maker, _ = _maker(service)
    record = _record()
    await maker.make(line, "acme", record, fails=True)
    assert (record.released, record.expired) == (None, True)


async def test_an_answer_with_other_amounts_is_a_difference(
    service: ScriptedService, line: Line
) -> None:
    service.will_answer(
        Reply(201, hold_answer(amount=39)),
        Reply(200, hold_answer(state="committed", committed=14, remaining=0)),
    )
    maker, tally = _maker(service)
    await maker.make(line, "acme", _record(), fails=False)
    assert [(each.expected, each.found) for each in tally.misanswers] == [
        ("40", "39"),
        ("13", "14"),
    ]


async def test_an_answer_that_is_no_json_ends_the_replay(
    service: ScriptedService, line: Line
) -> None:
    service.will_answer(Reply(200, "<h1>hello</h1>"))
    maker, _ = _maker(service)
    with pytest.raises(ReplayError, match="hello"):
        await maker.make(line, "acme", _record(), fails=False)
