"""What a batch adds up to, and what contradicts itself."""

from typing import Any

import pytest

from settlement.fold import Fold, Rejected, utc_day
from settlement.reader import Entry

NOON = 1_795_176_000_000  # 2026-11-20 12:00 UTC
DAY_MS = 86_400_000


def entry(version: int, kind: str, available: int, held: int, **fields: Any) -> Entry:
    return Entry(
        fields.pop("seq", version),
        "",
        "",
        kind,
        fields.pop("account", "acme"),
        version,
        fields.pop("at", NOON),
        available=available,
        held=held,
        **fields,
    )


def reserve(version: int, available: int, held: int, amount: int, **fields: Any) -> Entry:
    record = {"kind": "hold", "state": "held", "remaining": str(amount), "draws": "x"}
    return entry(
        version,
        "reserve",
        available,
        held,
        **{
            "amount": amount,
            "delta": {"base": -amount, "held": amount},
            "key": "h1",
            "opened": version,
            "record": record,
            "day": 20261120,
            "used": amount,
        }
        | fields,
    )


def commit(version: int, available: int, amount: int, rest: int, **fields: Any) -> Entry:
    return entry(
        version,
        "commit",
        available,
        0,
        **{
            "amount": amount,
            "delta": {"base": rest, "held": -amount - rest, "spent": amount},
            "hold": "h1",
            "opened": 2,
            "record": {"state": "committed", "remaining": "0", "draws": ""},
            "day": 20261120,
            "used": -rest,
        }
        | fields,
    )


def fold(*entries: Entry) -> Fold:
    folded = Fold()
    for one in entries:
        folded.add(3, one)
    folded.check()
    return folded


def test_a_reserve_and_its_commit_are_one_record_and_one_change() -> None:
    folded = fold(reserve(2, 60, 40, 40), commit(3, 87, 13, 27))

    (change,) = folded.accounts.values()
    assert (change.first_version, change.version, change.last_seq) == (2, 3, 3)
    assert (change.available, change.held) == (87, 0)
    assert change.by["base"] == -13
    assert change.by["spent"] == 13
    assert change.moved == -13
    (record,) = folded.records.values()
    assert (record.key, record.opened, record.new, record.shard) == ("h1", 2, True, 3)
    assert record.fields == {"kind": "hold", "state": "committed", "remaining": "0", "draws": ""}


def test_a_record_of_an_earlier_batch_only_changes() -> None:
    (record,) = fold(commit(3, 87, 13, 27)).records.values()

    assert record.new is False


def test_use_belongs_to_the_day_of_the_hold_and_what_is_taken_to_its_own() -> None:
    late = NOON + DAY_MS

    folded = fold(reserve(2, 60, 40, 40), commit(3, 87, 13, 27, at=late))

    usage = {day: change for (_, day, _, _), change in folded.usage.items()}
    assert (usage[20261120].used, usage[20261120].spent, usage[20261120].calls) == (13, 0, 1)
    assert (usage[20261121].used, usage[20261121].spent, usage[20261121].calls) == (0, 13, 0)


def test_a_refund_changes_the_record_that_it_refunds() -> None:
    refund = entry(
        4,
        "refund",
        90,
        0,
        amount=3,
        delta={"base": 3, "refunded": 3},
        key="r1",
        opened=4,
        record={"kind": "refund"},
        of="h1",
        of_opened=2,
        of_record={"refunded": "3"},
    )

    folded = fold(refund)

    assert folded.records["acme", "r1", 4].new is True
    assert folded.records["acme", "h1", 2].fields == {"refunded": "3"}
    assert folded.accounts["acme"].last_refund_seq == 4


def test_what_member_a_setting_is_of_decides_where_it_goes() -> None:
    folded = fold(
        entry(2, "settings", 0, 0, settings={"plan": "pro", "low_balance": "5"}),
        entry(3, "settings", 0, 0, settings={"plan": ""}),
        entry(4, "settings", 0, 0, member="bob", settings={"daily_limit": "9", "max_hold": ""}),
    )

    assert folded.accounts["acme"].settings == {"plan": "", "low_balance": "5"}
    assert folded.members == {("acme", "bob"): (9, None, None)}


def test_the_last_word_on_a_grant_counts() -> None:
    folded = fold(
        entry(2, "grant", 10, 0, delta={"granted": 10}, grants={"g1": "99 5 10"}),
        entry(3, "charge", 6, 0, delta={"spent": 4}, grants={"g1": "99 5 6"}),
    )

    assert folded.grants == {("acme", "g1"): (99, 5, 6)}
    assert folded.accounts["acme"].last_grant_seq == 2


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ((reserve(2, 60, 40, 40), commit(4, 87, 13, 27)), "version 4 of account acme follows 2"),
        ((reserve(2, 60, 40, 40), commit(3, 88, 13, 27)), "its delta leads to 87 and 0"),
        ((reserve(2, 60, 40, 40), commit(3, 87, 13, 27, hold=None)), "does not name"),
        ((reserve(2, 60, 40, 40, delta={"held": 40}),), "available of account acme moves by -40"),
        ((reserve(2, 60, 40, 40, record=["kind"]),), "cannot be read"),
        ((entry(2, "grant", 1, 0, delta={"granted": 1}, grants={"g1": "soon"}),), "cannot be read"),
        ((entry(2, "settings", 0, 0, member="bob", settings={"max_hold": "x"}),), "cannot be read"),
        ((entry(2, "open", 0, 0),), "opens account acme anew"),
        ((Entry(2, "", "", error="unreadable: x"),), "unreadable: x"),
        ((reserve(2, 60, 40, 40, at=10**18),), "cannot be read"),
    ],
)
def test_a_contradiction_is_rejected(entries: tuple[Entry, ...], says: str) -> None:
    with pytest.raises(Rejected, match=says):
        fold(*entries)


def test_accounts_do_not_mix() -> None:
    folded = fold(reserve(2, 60, 40, 40), reserve(7, 1, 9, 9, account="other"))

    assert {a.account: a.version for a in folded.accounts.values()} == {"acme": 2, "other": 7}
    assert len(folded.records) == 2


@pytest.mark.parametrize(
    ("at_ms", "day"),
    [
        (0, 19700101),
        (NOON, 20261120),
        (NOON + DAY_MS // 2 - 1, 20261120),
        (NOON + DAY_MS // 2, 20261121),
        (951_782_400_000, 20000229),
    ],
)
def test_days_are_utc(at_ms: int, day: int) -> None:
    assert utc_day(at_ms) == day
