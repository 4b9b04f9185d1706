"""The checker finds what is wrong, and nothing where nothing is: one real run, falsified."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from holdfast.staging import temporary_directory
from tests.faults.evidence import RecordRow
from tests.faults.falsified import AMONG_OTHERS, EXACTLY, answered
from tests.faults.history import History, Note, Operation, Sums, Tally
from tests.faults.loss import lost_at_most
from tests.faults.place import service
from tests.faults.recording import Story, record
from tests.faults.verdict import KINDS, Verdict


@pytest.fixture(scope="module")
def run() -> Iterator[tuple[Story, Verdict]]:
    """A run in which nothing went wrong, and what the check said of it."""

    async def made() -> tuple[Story, Verdict]:
        async with service(directory / "place", shards=2, proxied=False) as place:
            return await record(place)

    with temporary_directory("holdfast-faults-") as directory:
        yield asyncio.run(made())


@pytest.fixture
def story(run: tuple[Story, Verdict]) -> Story:
    return run[0].retold()


def test_a_run_without_faults_is_clean(run: tuple[Story, Verdict]) -> None:
    story, verdict = run

    verdict.assert_clean()
    assert verdict.acknowledged > 800
    assert verdict.repeated == 32
    assert (verdict.lost, verdict.applied, verdict.absent) == (0, 0, 0)
    again = story.judged()
    again.assert_clean()
    assert again.entries >= verdict.entries
    types = {where.line.type for where in story.places()}
    assert types >= {
        *("open", "grant", "reserve", "commit", "release", "extend", "expire", "charge", "refund"),
    }


@pytest.mark.parametrize("falsify", EXACTLY, ids=lambda each: each.__name__)
def test_one_thing_wrong_is_found(story: Story, falsify: Callable[[Story], set[str]]) -> None:
    expected = falsify(story)

    verdict = story.judged()

    assert set(verdict.found) == expected, verdict.text()
    with pytest.raises(AssertionError, match=KINDS[min(expected)]):
        verdict.assert_clean()


@pytest.mark.parametrize("falsify", AMONG_OTHERS, ids=lambda each: each.__name__)
def test_what_has_consequences_is_found(story: Story, falsify: Callable[[Story], set[str]]) -> None:
    expected = falsify(story)

    verdict = story.judged()

    assert set(verdict.found) >= expected, verdict.text()


def test_what_a_grant_forfeits_later_was_not_in_its_answer(story: Story) -> None:
    """The entry after a grant forfeits it: a script of its own, which nobody was told of."""
    shard = story.shards[0]
    at, row = next((at, row) for at, row in enumerate(shard.accounts) if not row.debt)
    now_ms = int(orjson.loads(shard.lines[-1].entry)["at"])
    version, available = row.version + 1, row.available + 50
    story.append(
        row.account,
        type="grant",
        key="brief",
        amount="50",
        available=str(available),
        delta=["granted", "50"],
        grants=["brief", f"{now_ms + 1} 0 50"],
        record=["kind", "grant", "expires", f"{now_ms + 1}"],
    )
    story.append(
        row.account,
        type="forfeit",
        grant="brief",
        at=f"{now_ms + 1}",
        amount="50",
        available=str(row.available),
        delta=["forfeited", "50"],
        grants=["brief", f"{now_ms + 1} 0 0"],
    )
    shard.accounts[at] = row._replace(
        version=version + 1, granted=row.granted + 50, forfeited=row.forfeited + 50
    )
    shard.records.append(RecordRow(row.account, "brief", version, "grant", "", 50, 0, 0, 0, 0, 0))
    granted = answered(story, story.find("grant"))
    end_ns = max(each.answered_ns or 0 for each in story.history.operations)
    brief = replace(
        granted,
        id=-1,
        account=row.account,
        key="brief",
        amount=50,
        asked_ns=end_ns + 1,
        answered_ns=end_ns + 2,
        answer={"amount": 50, "version": version, "available": available, "held": row.held},
    )
    story.history.operations.append(brief)

    story.judged().assert_clean()


def test_there_is_no_kind_of_finding_that_is_not_shown_here(run: tuple[Story, Verdict]) -> None:
    shown = {"not_a_tail", "unreported"}  # below
    for falsify in (*EXACTLY, *AMONG_OTHERS):
        shown |= falsify(run[0].retold())

    assert shown == set(KINDS)


# ── outcomes that nobody knows, losses that may be, and sums ─────────────────────────────────────


def test_an_unknown_outcome_is_settled_by_the_journal(story: Story) -> None:
    happened = answered(story, story.find("charge"))
    never = replace(happened, id=-1, key="never")
    for operation in (happened, never):
        operation.outcome, operation.answered_ns, operation.answer = "unknown", None, {}
    story.history.operations.append(never)

    verdict = story.judged()

    verdict.assert_clean()
    assert (verdict.applied, verdict.absent) == (1, 1)


def lose_the_end(story: Story, count: int) -> list[Operation]:
    """Take the last entries from a shard, as if they had never been; whose they were."""
    shard = story.shards[0]
    gone = {line.key for line in shard.lines[-count:]}
    del shard.lines[-count:]
    story.link(shard)
    # What the tables and the service have besides is of no interest here.
    story.finals.clear()
    return [each for each in story.history.operations if each.key in gone and each.answered_ns]


def found_of_a_loss(story: Story) -> set[str]:
    return set(story.judged(allow_lost=True).found) - {"tables"}


def test_a_loss_at_the_end_of_a_life_may_be_allowed(story: Story) -> None:
    lost = lose_the_end(story, 60)
    story.history.note("redis killed")

    verdict = story.judged(allow_lost=True)

    assert verdict.lost == len(lost) > 0
    assert verdict.lost_by_shard == {story.shards[0].number: len(lost)}
    assert found_of_a_loss(story) == set()
    assert "lost" in story.judged().found
    assert "unreported" in story.judged(allow_lost=True, reported=True).found


def test_a_loss_of_which_nobody_knows_the_reason_is_not_allowed(story: Story) -> None:
    lose_the_end(story, 60)

    assert found_of_a_loss(story) == {"not_a_tail"}


def test_what_is_lost_before_something_that_survived_is_no_end(story: Story) -> None:
    lost = lose_the_end(story, 60)
    survivor = answered(story, story.find("charge", lambda where: where.shard.number == 0))
    survivor.asked_ns = max(each.answered_ns or 0 for each in lost) + 1
    survivor.answered_ns = survivor.asked_ns + 1
    story.history.note("redis killed")

    assert "not_a_tail" in found_of_a_loss(story)


def test_what_was_answered_after_the_end_of_a_life_is_of_the_next_one(story: Story) -> None:
    """It survived, and was asked after all that was lost."""
    lost = lose_the_end(story, 60)
    killed_ns = max(each.answered_ns or 0 for each in lost) + 1
    story.history.notes.append(Note(killed_ns, "redis killed"))
    *_, where = (w for w in story.places() if w.line.key and w.shard is story.shards[0])
    survivor = answered(story, where)
    survivor.asked_ns, survivor.answered_ns = killed_ns + 1, killed_ns + 2

    assert found_of_a_loss(story) == set()


def test_what_was_answered_as_settled_is_never_lost(story: Story) -> None:
    lost = lose_the_end(story, 60)
    lost[0].answer["durability"] = "settled"
    story.history.note("redis killed")

    assert found_of_a_loss(story) == {"lost"}


def test_incidents_say_how_much_was_lost() -> None:
    incidents = [
        {"kind": "rebuild", "shard": 1, "details": {"lost_at_most": 7, "redis_seq": 3}},
        {"kind": "lost_tail", "shard": 2, "details": {"lost_at_most": 5, "redis_seq": 4}},
        {"kind": "postgres_went_back", "shard": 2, "details": {"redis_seq": 4}},
        {
            "kind": "unsynced_restart",
            "shard": None,
            "details": {
                "shards": [{"shard": 1, "lost_at_most": 2}, {"shard": 3, "lost_at_most": 4}]
            },
        },
    ]

    assert lost_at_most(incidents) == {1: 9, 2: 5, 3: 4}


def tallied(story: Story) -> Tally:
    tally = Tally()
    for operation in story.history.operations:
        tally.end(operation)
    return tally


def add_one(sums: Sums) -> set[str]:
    sums.ok += 1
    return {"lost"}


def forget_one(sums: Sums) -> set[str]:
    sums.ok -= 1
    return {"duplicate"}


def expect_more(sums: Sums) -> set[str]:
    sums.ok_amount += 1
    return {"wrong_effect"}


def expect_less(sums: Sums) -> set[str]:
    sums.ok_amount -= 1
    return {"wrong_effect"}


@pytest.mark.parametrize("falsify", [add_one, forget_one, expect_more, expect_less])
def test_a_tally_finds_by_sums(story: Story, falsify: Callable[[Sums], set[str]]) -> None:
    story.history = tally = tallied(story)
    story.judged().assert_clean()
    expected = falsify(next(s for (_, kind), s in tally.sums.items() if kind == "charge" and s.ok))

    assert set(story.judged().found) == expected


def test_a_tally_knows_what_may_have_happened(story: Story) -> None:
    for operation in story.history.operations[::2]:
        if operation.outcome == "ok":
            operation.outcome = "unknown"
    story.history = tallied(story)

    story.judged().assert_clean()


def test_a_history_is_read_as_it_was_dumped(story: Story, tmp_path: Path) -> None:
    story.history.note("nothing happens")
    story.history.dump(tmp_path / "history.jsonl")

    history = History.read(tmp_path / "history.jsonl")

    assert history.operations == story.history.operations
    assert history.notes == story.history.notes
    assert history.counts == story.history.counts
    assert len(history) == len(history.operations)
