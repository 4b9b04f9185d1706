"""The Lua scripts: their text, their contract, and their names in one generation of Redis.

A script file names the parts it includes (`-- include: lib/number.lua`, in order, each once) and
opens with a header that is its contract (lua/README.md has the grammar). The generation's nonce is
written into the text, so that the name (SHA-1) of a script is unknown to any Redis that was not
vetted under that generation: it answers NOSCRIPT and is closed by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha1
from importlib.resources import files
from typing import Final

_INCLUDE = re.compile(r"^ *-- include: (lib/[a-z_]+\.lua)$", re.M)
_HEADER = re.compile(r"^-- (PURPOSE|KEYS|ARGV|RETURNS|CODES|APPENDS) *(.*)$", re.M)
_CONSTANTS = re.compile(r"^local ([A-Z][A-Z0-9_, ]*) = ([0-9.e, ]+)$", re.M)
# A literal that goes on in the next line: Lua 5.1 would join the two anew at every call.
_JOINED = re.compile(r"'\n *\.\. '")
# A quoted word, which stays as it is, or a word in capitals, which may be a constant.
_CAPITALS = re.compile(r"'[^'\n]*'|\b[A-Z][A-Z0-9_]+\b")
_NONCE_MARK: Final = "@NONCE@"
NONCE_PATTERN: Final = re.compile(r"[0-9a-f]{32}")

# What the API calls: one transition a script, and the reads.
TRANSITIONS: Final = (
    "open",
    "settings",
    "member",
    "reserve",
    "extend",
    "commit",
    "release",
    "charge",
    "refund",
    "grant",
    "adjust",
    "expire",
)
READS: Final = ("account", "hold")
# What cold loading, the settlement worker and its operators' commands call.
UPKEEP: Final = (
    "load_part",
    "load",
    "evict",
    "trim",
    "settled",
    "lease",
    "clock_reset",
    "entries",
    "due",
    "delete",
    "restart",
)
# Loaded into every vetted Redis. Two are not among them and are sent as text, for they have no
# nonce: `raise` makes one valid, and `ahead` closes a shard whatever its generation.
LOADED: Final = TRANSITIONS + READS + UPKEEP
RAISE: Final = "raise"
AHEAD: Final = "ahead"


@dataclass(frozen=True)
class Header:
    """The contract at the head of a script, as words."""

    purpose: str
    keys: tuple[str, ...]
    argv: tuple[str, ...]
    returns: str
    codes: tuple[str, ...]
    appends: tuple[str, ...]


def _read(path: str) -> str:
    return files("holdfast.lua").joinpath(path).read_text(encoding="utf-8")


def header(name: str) -> Header:
    """The parsed header of a script. Raises KeyError where a line of the contract is missing."""
    lines = dict(_HEADER.findall(_read(f"{name}.lua").split("\n\n", 1)[0]))
    return Header(
        purpose=lines["PURPOSE"],
        keys=tuple(lines["KEYS"].split()),
        argv=tuple(lines["ARGV"].split()),
        returns=lines["RETURNS"],
        codes=tuple(lines["CODES"].split()),
        appends=tuple(lines["APPENDS"].split()),
    )


def includes(name: str) -> list[str]:
    """The parts a script includes, in order. Raises ValueError where one is named twice."""
    found: list[str] = _INCLUDE.findall(_read(f"{name}.lua"))
    if len(set(found)) != len(found):
        raise ValueError(f"lua/{name}.lua includes a part twice")
    return found


@lru_cache(maxsize=128)  # two builds of about 25 scripts, with room
def template(name: str, test_clock: bool = False) -> str:
    """A script with its parts included and the nonce still to be written in.

    `test_clock` swaps `lib/clock.lua` for the clock of the test build, which tests can move.
    """

    def part(match: re.Match[str]) -> str:
        path = match.group(1)
        if test_clock and path == "lib/clock.lua":
            path = "lib/clock_test.lua"
        body = [ln for ln in _read(path).splitlines() if not ln.lstrip().startswith("--")]
        return "\n".join(body)

    includes(name)
    text = _INCLUDE.sub(part, _read(f"{name}.lua"))
    shebang, *rest = text.splitlines()
    kept = [ln for ln in rest if ln.strip() and not ln.startswith("--")]
    return _write_constants(_JOINED.sub("", "\n".join([shebang, *kept]) + "\n"))


def _write_constants(text: str) -> str:
    """Constants written in as numbers. As locals they would be captured by every function at every
    call, which costs a script some 3 % of its time."""
    values: dict[str, str] = {}
    for found in _CONSTANTS.finditer(text):
        values |= dict(zip(found[1].split(", "), found[2].split(", "), strict=True))
    text = _CONSTANTS.sub("", text)
    return _CAPITALS.sub(lambda word: values.get(word[0], word[0]), text)


def render(name: str, nonce: str, test_clock: bool = False) -> str:
    """The text of a script for one generation. Raises ValueError for a nonce that is not 32 hex."""
    if not NONCE_PATTERN.fullmatch(nonce):
        raise ValueError("a nonce is 32 lower-case hexadecimal digits")
    return template(name, test_clock).replace(_NONCE_MARK, nonce)


@lru_cache(maxsize=256)  # generations that one process meets; each is about 4 kB
def names(nonce: str, test_clock: bool = False) -> dict[str, bytes]:
    """The name (SHA-1, hexadecimal) of every loaded script in the generation of `nonce`."""
    return {
        name: sha1(render(name, nonce, test_clock).encode(), usedforsecurity=False)
        .hexdigest()
        .encode()
        for name in LOADED
    }
