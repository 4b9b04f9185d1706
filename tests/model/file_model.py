"""The append-only file of a Redis that is killed while it writes, as a model.

A script writes two keys, as one group in the file. A kill may tear the last group. Redis was seen
to do this: it starts, leaves the torn group out and the file as it is; what it writes then stands
behind the tear, and at the next start the torn group's first half is carried out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

WHOLE, TORN = range(2)
MOST: Final = 4
"""Groups that are written."""


class Rules(NamedTuple):
    """What the protocol demands. One that is False was taken out."""

    rewrites_before_it_opens: bool = True


class Server(NamedTuple):
    """Everything."""

    file: tuple[int, ...]
    first: int
    """Groups whose first key is in memory; `second` likewise."""
    second: int
    up: bool
    open: bool
    written: int
    kills: int


class File:
    """The model. `rules` may have some taken out."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def start(self) -> Server:
        return Server((), 0, 0, up=True, open=True, written=0, kills=3)

    def same(self, server: Server) -> Server:
        return server

    def fault(self, server: Server) -> str | None:
        if server.up and server.first != server.second:
            return "a script is half carried out"
        return None

    def steps(self, server: Server) -> Iterator[tuple[str, Server]]:
        file = server.file
        if not server.up:
            # The last group, torn or not, decides nothing for those before it.
            halves = sum(group == TORN for group in file[:-1])
            wholes = sum(group == WHOLE for group in file)
            loaded = server._replace(first=wholes + halves, second=wholes, up=True)
            yield "Redis starts", loaded
            return
        if server.open and server.written < MOST:
            grown = server._replace(file=(*file, WHOLE), written=server.written + 1)
            both = grown._replace(first=server.first + 1, second=server.second + 1)
            yield "a script writes", both
        if server.kills:
            killed = server._replace(up=False, open=False, kills=server.kills - 1)
            yield "Redis is killed", killed
            if file and file[-1] == WHOLE:
                yield "Redis is killed and tears its file", killed._replace(file=(*file[:-1], TORN))
        if not server.open:
            rewritten = (WHOLE,) * server.second
            kept = rewritten if self.rules.rewrites_before_it_opens else file
            yield "a worker vets Redis and opens it", server._replace(file=kept, open=True)
