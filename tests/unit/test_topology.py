"""Slots, URLs and the map of a cluster, as values."""

from binascii import crc_hqx

import pytest

from holdfast.topology import Address, parse_url, read_slots, slot_of


@pytest.mark.parametrize(
    ("key", "same_as"),
    [
        ("{user1000}.following", "user1000"),
        ("hf:{017}:acct:x", "017"),
        ("foo{{bar}}zap", "{bar"),
        ("foo{bar}{zap}", "bar"),
        (b"{\xff\x00}x", b"\xff\x00"),
    ],
)
def test_slot_is_that_of_the_hash_tag(key: str | bytes, same_as: str | bytes) -> None:
    assert slot_of(key) == slot_of(same_as)


def test_slot_of_a_key_without_a_tag_is_the_crc_of_all_of_it() -> None:
    assert slot_of("123456789") == 0x31C3  # the check value of CRC16/XMODEM
    assert slot_of("") == 0
    for key in ("foo{}{bar}", "foo{bar", "foo}bar{"):
        assert slot_of(key) == crc_hqx(key.encode(), 0) % 16_384
    assert slot_of("é") == slot_of("é".encode())


def test_url_says_where_and_who() -> None:
    target = parse_url("redis://bob:p%40ss@[::1]:7000/3")
    assert (str(target.address), target.username, target.db) == ("[::1]:7000", "bob", 3)
    assert target.password == "p@ss"
    assert "p@ss" not in repr(target)
    assert parse_url("redis://").address == Address("localhost", 6379)
    assert parse_url("redis://:secret@h").greeting("n")[0] == ("AUTH", "secret")
    assert parse_url("unix:///run/my%20redis?db=2").address == Address(path="/run/my redis")
    assert parse_url("unix:///run/redis?db=2").greeting("n") == [
        ("CLIENT", "SETNAME", "n"),
        ("SELECT", "2"),
    ]


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "localhost:6379",
        "unix://",
        "redis://h/one",
        "redis://h/-1",
        "redis://h:port",
        "redis://h?ssl_cert_reqs=none",
        "redis://h#x",
        "redis://bob@h",
    ],
)
def test_url_that_is_not_understood_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        parse_url(url)


def test_map_of_a_cluster_lists_primaries() -> None:
    one, two = [b"10.0.0.1", 7000, b"id1", []], [b"", 7001, b"id2", []]
    replica = [b"10.0.0.9", 7009, b"id9", []]
    reply = [[0, 99, one, replica], [100, 16383, two], [200, 299, one]]
    assert read_slots(reply, Address("asked", 1)) == {
        Address("10.0.0.1", 7000): [(0, 99), (200, 299)],
        Address("asked", 7001): [(100, 16383)],
    }
