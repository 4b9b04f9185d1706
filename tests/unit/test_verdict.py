"""The fate of a shard that is vetted, case by case."""

from dataclasses import replace

import pytest

from settlement.verdict import Evidence, Fate, Mark, Tail, judge

CHAIN_10, CHAIN_12 = "a" * 40, "c" * 40
MARK = Mark(10, CHAIN_10)
# The journal ends at 10, Redis has two more, and everything links.
EVIDENCE = Evidence(
    mark=MARK,
    generation=3,
    redis_generation=3,
    redis_chain=CHAIN_12,
    served=True,
    deleting=False,
    forced=False,
)
TAIL = Tail(seq=12, settled=10, valid=Mark(12, CHAIN_12), fault="")
BROKEN = replace(TAIL, valid=Mark(11, "b" * 40), fault="entry 12 is missing")


@pytest.mark.parametrize(
    ("evidence", "tail", "fate"),
    [
        (EVIDENCE, TAIL, Fate.ADOPT),
        (EVIDENCE, BROKEN, Fate.REBUILD),
        (replace(EVIDENCE, forced=True), TAIL, Fate.REBUILD),
        (replace(EVIDENCE, deleting=True), TAIL, Fate.REBUILD),
        (replace(EVIDENCE, redis_chain="f" * 40), TAIL, Fate.REBUILD),
        # A Redis that lost its meta, and one that never had any.
        (
            Evidence(Mark(0, ""), 3, 0, "", served=True, deleting=False, forced=False),
            Tail(0, 0, Mark(0, ""), ""),
            Fate.REBUILD,
        ),
        (
            Evidence(Mark(0, ""), 0, 0, "", served=False, deleting=False, forced=False),
            Tail(0, 0, Mark(0, ""), ""),
            Fate.ADOPT,
        ),
        # Postgres went back: what Redis has settled is replayed, or nothing is decided.
        (EVIDENCE, replace(TAIL, settled=12), Fate.ADOPT),
        (EVIDENCE, replace(BROKEN, settled=11), Fate.REBUILD),
        (EVIDENCE, replace(BROKEN, settled=12), Fate.STOP),
        (replace(EVIDENCE, deleting=True), replace(BROKEN, settled=12), Fate.STOP),
        (replace(EVIDENCE, forced=True), replace(BROKEN, settled=12), Fate.REBUILD),
        # Keys were deleted, at this mark of the journal: never adopted, and not started below it.
        (replace(EVIDENCE, remnant=0), TAIL, Fate.REBUILD),
        (replace(EVIDENCE, remnant=10), TAIL, Fate.REBUILD),
        (replace(EVIDENCE, remnant=12), TAIL, Fate.REBUILD),
        (replace(EVIDENCE, remnant=12), BROKEN, Fate.STOP),
        (replace(EVIDENCE, remnant=12, forced=True), BROKEN, Fate.REBUILD),
        # The clock of this Redis was ahead: what it ended early is in the journal, all of it.
        (replace(EVIDENCE, ahead=True), TAIL, Fate.REBUILD),
        (replace(EVIDENCE, ahead=True), replace(BROKEN, settled=12), Fate.STOP),
    ],
)
def test_fate(evidence: Evidence, tail: Tail, fate: Fate) -> None:
    verdict = judge(evidence, tail)
    assert verdict.fate is fate
    assert bool(verdict.reason) == (fate is not Fate.ADOPT)


@pytest.mark.parametrize(
    ("settled", "remnant", "redis_generation", "went_back"),
    [
        (10, None, 3, False),
        (10, 10, 3, False),
        (11, None, 3, True),
        (10, 11, 3, True),
        (10, None, 4, True),
    ],
)
def test_postgres_went_back_where_redis_knows_more(
    settled: int, remnant: int | None, redis_generation: int, went_back: bool
) -> None:
    evidence = replace(EVIDENCE, redis_generation=redis_generation, remnant=remnant)
    assert judge(evidence, replace(TAIL, settled=settled)).went_back == went_back
