"""Names of the Redis keys, the shard of an account, and fingerprints. Keys are built nowhere else.

Every key of a shard carries its hash tag, so that one script touches one node of a cluster:
`hf:{017}:acct:acme`. An account's id may contain `:`, and so may an idempotency key; in the one
family that joins the two, `key:<account>:<key>`, a colon of the account is written `%3A`, so that
no two pairs share a name (docs/decisions/0001-record-keys.md).
"""

from __future__ import annotations

import re
import zlib
from binascii import b2a_base64
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

import orjson

from holdfast.topology import slot_of

ID_PATTERN: Final = r"[A-Za-z0-9_.:-]{1,128}"
_ID = re.compile(ID_PATTERN)
# As providers and gateways write them: `meta-llama/Llama-3.1-8B`, `claude-sonnet@20240620`,
# `ft:gpt-4o:acme::7`. No space, which is between the names of a list, and nothing that JSON quotes.
MODEL_PATTERN: Final = r"[A-Za-z0-9_.:/@+-]{1,128}"
_MODEL = re.compile(MODEL_PATTERN)

# Request fields whose fingerprints are compared when a key is used again, in the order in which a
# difference is named. `metadata` and `description` are not among them: they change no money.
FINGERPRINTED: Final[Mapping[str, tuple[str, ...]]] = {
    "hold": ("amount", "min_amount", "ttl_seconds", "member", "usage", "quote_id"),
    "charge": ("amount", "on_shortfall", "member", "usage", "quote_id"),
    "grant": ("amount", "source", "priority", "expires_at", "payment"),
    "adjust": ("amount", "reason"),
    "refund": ("of", "amount"),
    "commit": ("amount", "on_shortfall", "final", "usage"),
    "release": ("reason",),
    "extend": ("ttl_seconds", "add_amount"),
}
_ABSENT: Final = b"...."
# RFC 4648, section 5; base64.urlsafe_b64encode does the same, at three times the cost.
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def is_id(text: str) -> bool:
    """Is `text` of the id grammar: 1 to 128 of `A-Z a-z 0-9 _ . : -`?"""
    return _ID.fullmatch(text) is not None


def is_model(text: str) -> bool:
    """Is `text` the name of a model: 1 to 128 of `A-Z a-z 0-9 _ . : / @ + -`?"""
    return _MODEL.fullmatch(text) is not None


def shard_of(account: str, shards: int) -> int:
    """The shard of an account: CRC-32 (IEEE 802.3) of its id, modulo the number of shards."""
    return zlib.crc32(account.encode()) % shards


def fingerprint(kind: str, request: Mapping[str, Any]) -> bytes:
    """Four characters (24 bits) for each request field of `kind` that is compared on a retry.

    Fields are taken as sent: one that was left out is not the same as its default written out.
    """
    parts = []
    for name in FINGERPRINTED[kind]:
        value = request.get(name)
        if value is None:
            parts.append(_ABSENT)
            continue
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        digest = blake2b(text, digest_size=3).digest()
        parts.append(b2a_base64(digest, newline=False).translate(_URL_SAFE))
    return b"".join(parts)


def acct_pattern(prefix: str) -> bytes:
    """What SCAN matches the acct key of every account with."""
    return prefix.encode() + b":{*}:acct:*"


def account_of(acct_key: bytes) -> str:
    """The account of an acct key. What is no id (a key of somebody else) comes out as it is."""
    return acct_key.partition(b":acct:")[2].decode(errors="replace")


class ShardKeys:
    """The keys of one shard. Fixed ones are built once; they are on every call's path."""

    __slots__ = ("due", "family", "lease_finish", "lease_new", "meta", "number", "slot", "stream")

    def __init__(self, prefix: str, number: int) -> None:
        tag = f"{number:03d}"
        self.number = number
        self.family = f"{prefix}:{{{tag}}}:".encode()
        self.meta = self.family + b"meta"
        self.slot = slot_of(self.meta)
        self.lease_new = self.family + b"lease:new"
        self.lease_finish = self.family + b"lease:finish"
        self.stream = self.family + b"stream"
        self.due = self.family + b"due"

    def acct(self, account: str) -> bytes:
        return self.family + b"acct:" + account.encode()

    def open(self, account: str) -> bytes:
        return self.family + b"open:" + account.encode()

    def members(self, account: str) -> bytes:
        return self.family + b"members:" + account.encode()

    def record(self, account: str, key: str) -> bytes:
        return self.family + b"key:" + account.replace(":", "%3A").encode() + b":" + key.encode()

    def of_shard(self) -> list[bytes]:
        """KEYS[1..5] of every script that looks at more than the fence."""
        return [self.meta, self.lease_new, self.lease_finish, self.stream, self.due]

    def of_account(self, account: str) -> list[bytes]:
        """KEYS[1..8]: the shard, then the account's own keys."""
        name = account.encode()
        family = self.family
        return [
            self.meta,
            self.lease_new,
            self.lease_finish,
            self.stream,
            self.due,
            family + b"acct:" + name,
            family + b"open:" + name,
            family + b"members:" + name,
        ]
