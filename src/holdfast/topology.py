"""Where a key lives: the URL of a Redis, hash slots, and which primary of a cluster serves them.

Nothing here talks to the network; `wire.py` does.
"""

from __future__ import annotations

import ssl
from binascii import crc_hqx
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

SLOTS = 16_384
"""Hash slots of a Redis cluster. A single server is treated as one node that serves them all."""

SlotRange = tuple[int, int]
"""First and last slot, both included."""


def slot_of(key: str | bytes) -> int:
    """Hash slot of a key, 0 to 16,383: CRC16 (XMODEM) of the hash tag, else of the whole key.

    The tag is what stands between the first `{` and the next `}`, unless that is empty
    (https://valkey.io/topics/cluster-spec/, "Hash tags").
    """
    name = key.encode() if isinstance(key, str) else key
    opening = name.find(b"{")
    if opening >= 0:
        closing = name.find(b"}", opening + 1)
        if closing > opening + 1:
            name = name[opening + 1 : closing]
    return crc_hqx(name, 0) % SLOTS


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: host and TCP port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Target:
    """What a Redis URL says. The password shows in no repr, so that it reaches no log."""

    address: Address
    username: str
    password: str = field(repr=False)
    db: int
    tls: ssl.SSLContext | None

    def greeting(self, name: str) -> list[tuple[str, ...]]:
        """The commands that a new connection starts with: who we are, which database."""
        commands: list[tuple[str, ...]] = [("CLIENT", "SETNAME", name)]
        if self.password:
            login = (self.username, self.password) if self.username else (self.password,)
            commands.insert(0, ("AUTH", *login))
        if self.db:
            commands.append(("SELECT", str(self.db)))
        return commands


def parse_url(url: str) -> Target:
    """Read `redis://[[user]:password@]host[:port][/db]`, `rediss://…` (TLS) or `unix:///path[?db=n]`.

    Raises ValueError for anything else: an option that is ignored in silence is a trap. TLS checks
    the server's certificate and name; `SSL_CERT_FILE` names a private authority.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme in ("redis", "rediss"):
        address = Address(parts.hostname or "localhost", parts.port or 6379)
        db = parts.path.removeprefix("/") or "0"
    elif parts.scheme == "unix" and parts.path:
        address = Address(path=unquote(parts.path))
        db = options.pop("db", "0")
    else:
        raise ValueError("a Redis URL starts with redis://, rediss:// or unix:///path")
    if options or parts.fragment:
        raise ValueError(f"a Redis URL takes no option {', '.join(options) or parts.fragment!r}")
    if not (db.isascii() and db.isdigit()):
        raise ValueError(f"the database of a Redis URL is a number, not {db!r}")
    if parts.username and not parts.password:
        raise ValueError("a Redis URL that names a user needs its password too")
    return Target(
        address=address,
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        db=int(db),
        tls=ssl.create_default_context() if parts.scheme == "rediss" else None,
    )


def read_slots(reply: Sequence[Any], asked: Address) -> dict[Address, list[SlotRange]]:
    """The primaries in a reply to CLUSTER SLOTS, and the slots that each of them serves.

    A node that does not know its own name reports none: then it is the one that was asked.
    """
    primaries: dict[Address, list[SlotRange]] = {}
    for first, last, (host, port, *_), *_ in reply:
        address = Address(host.decode() if host else asked.host or "localhost", port)
        primaries.setdefault(address, []).append((first, last))
    return primaries
