"""What a stream answers is believed only as far as numbers and chain go."""

from hashlib import sha1
from typing import Any

import orjson
import pytest

from settlement.reader import raw_bytes, raw_text, read_entry, verify


def entry(seq: int, **changes: Any) -> bytes:
    fields = {
        "type": "reserve",
        "account": "acme",
        "seq": str(seq),
        "version": str(seq),
        "at": "1795162159792",
        "amount": "40",
        "available": "960",
        "held": "40",
        "delta": ["base", "-40", "held", "40"],
        "key": "h1",
        "opened": str(seq),
        "day": "20261120",
        "used": "40",
        "record": ["kind", "hold"],
        "context": {"request_id": "r-1"},
    }
    return orjson.dumps(fields | changes)


def stream(*texts: bytes, first: int = 1, chain: str = "") -> list[Any]:
    """A stream answer of these texts, numbered and chained from `first` on."""
    found: list[Any] = []
    for number, text in enumerate(texts, start=first):
        chain = sha1(chain.encode() + text).hexdigest()
        found.append([b"%d-0" % number, [b"entry", text, b"chain", chain.encode()]])
    return found


def test_entries_that_follow_each_other_are_valid() -> None:
    found = stream(entry(1), entry(2), entry(3))

    reading = verify(0, "", found, seq=3, limit=10)

    assert [e.seq for e in reading.entries] == [1, 2, 3]
    assert reading.broken is None
    assert [e.chain.encode() for e in reading.entries] == [item[1][3] for item in found]


def test_it_goes_on_from_the_mark() -> None:
    found = stream(entry(1), entry(2), entry(3))

    reading = verify(1, found[0][1][3].decode(), found[1:], seq=3, limit=10)

    assert [e.seq for e in reading.entries] == [2, 3]
    assert reading.broken is None


def test_fields_are_read() -> None:
    reading = verify(0, "", stream(entry(1, model="gpt-x")), seq=1, limit=1)

    (read,) = reading.entries
    assert (read.type, read.account, read.version, read.at) == ("reserve", "acme", 1, 1795162159792)
    assert (read.amount, read.available, read.held) == (40, 960, 40)
    assert read.delta == {"base": -40, "held": 40}
    assert (read.key, read.hold, read.opened, read.record) == ("h1", None, 1, {"kind": "hold"})
    assert (read.day, read.used, read.model, read.error) == (20261120, 40, "gpt-x", "")
    assert read.text.encode() == entry(1, model="gpt-x")


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_gap_ends_the_valid_prefix(missing: int) -> None:
    found = stream(entry(1), entry(2), entry(3))
    del found[missing]

    reading = verify(0, "", found, seq=3, limit=10)

    assert [e.seq for e in reading.entries] == list(range(1, missing + 1))
    assert reading.broken is not None
    assert (reading.broken.kind, reading.broken.seq) == ("gap", missing + 1)


def test_a_stream_that_ends_early_is_a_gap_unless_it_was_asked_for_no_more() -> None:
    found = stream(entry(1), entry(2))

    assert verify(0, "", found, seq=5, limit=2).broken is None
    broken = verify(0, "", found, seq=5, limit=3).broken
    assert broken is not None
    assert (broken.kind, broken.seq) == ("gap", 3)


def test_a_forged_text_does_not_link() -> None:
    found = stream(entry(1), entry(2), entry(3))
    found[1][1][1] = entry(2, amount="41")

    reading = verify(0, "", found, seq=3, limit=10)

    assert [e.seq for e in reading.entries] == [1]
    assert reading.broken is not None
    assert (reading.broken.kind, reading.broken.seq) == ("chain", 2)


def test_a_forged_chain_is_found_at_the_entry_that_carries_it() -> None:
    found = stream(entry(1), entry(2))
    found[0][1][3] = sha1(b"other").hexdigest().encode()

    reading = verify(0, "", found, seq=2, limit=10)

    assert reading.entries == []
    assert reading.broken is not None
    assert reading.broken.seq == 1


def test_another_chain_than_the_mark_s_is_found_at_once() -> None:
    reading = verify(0, "ab" * 20, stream(entry(1)), seq=1, limit=10)

    assert reading.entries == []
    assert reading.broken is not None
    assert reading.broken.kind == "chain"


@pytest.mark.parametrize(
    "item",
    [
        None,
        [b"1-0"],
        [b"1-0", [b"entry", b"{}"]],
        [b"1-0", [b"text", b"{}", b"chain", b"x"]],
        [b"1-0", [b"entry", b"{}", b"chain", b"x", b"more", b"y"]],
    ],
)
def test_an_item_of_another_shape_is_a_fault(item: Any) -> None:
    broken = verify(0, "", [item], seq=1, limit=10).broken

    assert broken is not None
    assert broken.kind == "shape"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"type":"open","account":"acme",', "unexpected"),
        (b'{"type":"open","account":"acme","seq":"1"}', "missing"),
        (entry(1, version="one"), "invalid literal"),
        (entry(1, delta=["bonus", "1"]), "bonus"),
        (entry(1, record=["kind"]), "in turn"),
        (entry(1, delta={"base": "1"}), "in turn"),
        (entry(2), "number 2"),
        (b'{"type":"open","account":"acme","context":"\xff"}', "UTF-8"),
        (b"[]", ""),
    ],
)
def test_what_links_and_cannot_be_read_keeps_its_number(text: bytes, says: str) -> None:
    reading = verify(0, "", stream(text), seq=1, limit=10)

    assert reading.broken is None
    (read,) = reading.entries
    assert read.seq == 1
    assert says in read.error
    assert read.error.startswith("unreadable: ")
    assert read.account == ("" if text == b"[]" else "acme")
    assert raw_bytes(read.text) == text


@pytest.mark.parametrize("raw", [b"{}", b"\xff\xfe", b"a\0b", "ä".encode(), b""])
def test_the_raw_text_gives_the_bytes_back(raw: bytes) -> None:
    text = raw_text(raw)

    assert "\0" not in text
    assert raw_bytes(text) == raw


def test_an_account_named_beyond_the_head_is_not_believed() -> None:
    text = b'{"pad":"' + b"x" * 300 + b'","account":"acme"'

    assert read_entry(1, "", text).account == ""
