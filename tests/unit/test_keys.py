"""Names of keys, shards and fingerprints."""

import itertools
from binascii import crc_hqx

import pytest

from holdfast.keys import FINGERPRINTED, ShardKeys, fingerprint, is_id, shard_of
from holdfast.wire import slot_of


def test_no_two_pairs_share_a_record_key() -> None:
    keys = ShardKeys("hf", 7)
    pairs = [(a, k) for a in ("a", "a:b", "a:b:c", "a%3Ab") for k in ("b:c", "c", "b", ":", "a:b")]
    names = [keys.record(account, key) for account, key in pairs if is_id(account)]
    assert len(set(names)) == len(names)
    # The pair that would collide without the escape does occur within one shard.
    clash = next(
        (a, b)
        for a, b in itertools.product((f"t{i}" for i in range(200)), repeat=2)
        if shard_of(a, 64) == shard_of(f"{a}:{b}", 64)
    )
    account, rest = clash
    assert keys.record(account, f"{rest}:k") != keys.record(f"{account}:{rest}", "k")


def test_keys_are_those_that_operators_know() -> None:
    keys = ShardKeys("hf", 17)
    assert keys.meta == b"hf:{017}:meta"
    assert keys.acct("acme") == b"hf:{017}:acct:acme"
    assert keys.record("acme", "call-1") == b"hf:{017}:key:acme:call-1"
    assert keys.of_account("acme")[:5] == keys.of_shard()


@pytest.mark.parametrize("tag", ["000", "017", "063", "999"])
def test_slot_is_that_of_the_tag(tag: str) -> None:
    expected = crc_hqx(tag.encode(), 0) % 16_384
    assert ShardKeys("hf", int(tag)).slot == expected == slot_of(f"hf:{{{tag}}}:meta")


@pytest.mark.parametrize("bad", ["", "a/b", "a{b}", "a b", "é", "a\n", "x" * 129])
def test_ids_outside_the_grammar(bad: str) -> None:
    assert not is_id(bad)
    assert is_id("A-z0.9_:x")


def test_fingerprint_differs_where_the_field_does() -> None:
    first = {"amount": 40, "ttl_seconds": 900}
    width = len(fingerprint("hold", {})) // len(FINGERPRINTED["hold"])
    for i, name in enumerate(FINGERPRINTED["hold"]):
        other = {**first, name: "other"}
        a, b = fingerprint("hold", first), fingerprint("hold", other)
        assert [j for j in range(0, len(a), width) if a[j : j + width] != b[j : j + width]] == [
            i * width
        ]
    assert fingerprint("hold", {**first, "metadata": {"a": 1}}) == fingerprint("hold", first)
    assert b" " not in fingerprint("commit", {"amount": 1})
