"""What one worker does to the stores, told apart from what all others do.

    witness = await Witness.of(place)
    worker = await witness.add_worker()          # it has a name of its own in both stores
    ...
    async with witness.listening():              # to Redis, by MONITOR
        worker.resume()
        ...
    witness.calls                                # its scripts, each with what it wrote
    await witness.writes(since)                  # its rows in Postgres, by triggers

In Postgres its sessions have a setting of their own, by which triggers note every row that they
write and commit. In Redis it is a user of its own: MONITOR tells each command with the connection
that it came by, and behind a script what that called.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from holdfast import scripts
from tests.faults.place import PATIENCE_S, Place, Program
from tests.faults.program import HOST

NAME = "observed"
_RIGHTS = ("on", f">{NAME}", "~*", "&*", "+@all")
# What settling and vetting write to; of `worker`, which says who is alive, nothing follows.
_TABLES = ("shard", "journal", "account", "record", "account_grant", "quarantine", "incident")
# Commands of a script that change something.
_WRITES = frozenset({"SET", "DEL", "UNLINK", "HSET", "HDEL", "HINCRBY", "ZADD", "ZREM", "XADD"})
_WRITES_TOO = frozenset({"XTRIM", "XDEL", "PEXPIREAT", "PEXPIRE", "EXPIRE", "RENAME"})
_LINE = re.compile(r"\+(\d+\.\d+) \[\d+ ([^\]]+)\] (.*)")
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"')

_SETTING = "holdfast_test.worker"
_SEEN = """
CREATE TABLE seen (at timestamptz, place text, did text, old jsonb, new jsonb);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO seen VALUES (clock_timestamp(), TG_ARGV[0], TG_OP,
        CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END,
        CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END);
    RETURN NULL;
END
$$;
"""
# One at a time: a transaction with all of them would wait for a settle that waits for it.
_TRIGGERS = [
    f"CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW"
    f" WHEN (current_setting('{_SETTING}', true) = '{NAME}') EXECUTE FUNCTION note('{table}')"
    for table in _TABLES
]


@dataclass(frozen=True, slots=True)
class Write:
    """A row that the worker wrote in a transaction that committed."""

    at: datetime
    table: str
    did: str
    """INSERT, UPDATE or DELETE."""
    old: Mapping[str, Any]
    new: Mapping[str, Any]

    @property
    def claims(self) -> bool:
        """Whether it says that a shard is the worker's own."""
        if self.table != "shard":
            return False
        return self.new["claimed_until"] not in ("-infinity", self.old["claimed_until"])


@dataclass(slots=True)
class Call:
    """A command of the worker, as Redis ran it."""

    at: datetime
    words: tuple[str, ...]
    wrote: list[tuple[str, ...]] = field(default_factory=list)
    """What a script changed."""

    @property
    def script(self) -> str:
        """The name in Redis of the script that it calls, or ''."""
        return self.words[1] if self.words[0].upper() == "EVALSHA" else ""


class Witness:
    """One worker of a place, and what it does."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.calls: list[Call] = []
        """What it asked Redis while somebody listened."""

    @classmethod
    async def of(cls, place: Place) -> Witness:
        """Prepare both stores, before the worker is added."""
        async with place.postgres_connection() as connection:
            for statement in (_SEEN, *_TRIGGERS):
                await connection.execute(statement)
        await place.redis.command("ACL", "SETUSER", NAME, *_RIGHTS)
        # A Redis that starts anew has only the users of its command line.
        place.redis.options = (*place.redis.options, "--user", NAME, *_RIGHTS)
        return cls(place)

    async def add_worker(self, **settings: str) -> Program:
        """Start the worker, through the same proxies as all others."""
        told = self.place.environment("worker")
        redis = urlsplit(told["HOLDFAST_REDIS_URL"])
        return await self.place.add_worker(
            redis_url=redis._replace(netloc=f"{NAME}:{NAME}@{redis.netloc}").geturl(),
            database_url=f"{told['HOLDFAST_DATABASE_URL']}?{_SETTING}={NAME}",
            **settings,
        )

    # Postgres

    async def writes(self, since: datetime) -> list[Write]:
        """Its rows from a moment on, by Postgres's clock, in order."""
        async with self.place.postgres_connection() as connection:
            rows = await connection.fetch("SELECT * FROM seen WHERE at >= $1 ORDER BY at", since)
        return [
            Write(at, table, did, json.loads(old or "{}"), json.loads(new or "{}"))
            for at, table, did, old, new in rows
        ]

    # Redis

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Note in `calls` what it asks Redis while the block runs."""
        heard = bytearray()
        last = f"heard-{time.monotonic_ns()}"
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(HOST, self.place.redis.port)
        try:
            writer.write(b"MONITOR\r\n")
            async with asyncio.timeout(PATIENCE_S):
                await reader.readuntil(b"+OK\r\n")
            hearing = asyncio.create_task(_hear(reader, heard, last.encode()))
            try:
                connections = await self._connections()
                yield
                connections |= await self._connections()
                await self.place.redis.command("ECHO", last)
                async with asyncio.timeout(PATIENCE_S):
                    await hearing
            finally:
                hearing.cancel()
                await asyncio.gather(hearing, return_exceptions=True)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        self.calls += _calls(heard.decode("utf-8", "replace"), connections)

    async def _connections(self) -> set[str]:
        async with self.place.redis_client() as client:
            return {each["addr"] for each in await client.client_list() if each["user"] == NAME}

    def of_generation(self, *nonces: str) -> list[Call]:
        """Its scripts that were called under these nonces."""
        names = {name.decode() for nonce in nonces for name in scripts.names(nonce).values()}
        return [call for call in self.calls if call.script in names]


async def _hear(reader: asyncio.StreamReader, heard: bytearray, last: bytes) -> None:
    """Everything up to the command that says `last`. Raises AssertionError where Redis ends."""
    while (part := await reader.read(1 << 16)) != b"":
        heard += part
        if last in heard[-len(part) - len(last) :]:
            return
    raise AssertionError("MONITOR ended before all was told")


def _calls(text: str, connections: set[str]) -> list[Call]:
    """The commands of these connections, each script with what it wrote."""
    calls: list[Call] = []
    running: Call | None = None
    for line in text.split("\r\n"):
        found = _LINE.match(line)
        if found is None:
            continue
        at, source, said = found.groups()
        if source != "lua":
            running = None
            if source in connections:
                words = tuple(_WORD.findall(said))
                running = Call(datetime.fromtimestamp(float(at), UTC), words)
                calls.append(running)
        elif running is not None:
            words = tuple(_WORD.findall(said))
            if words[0].upper() in _WRITES | _WRITES_TOO:
                running.wrote.append((words[0].upper(), *words[1:]))
    return calls
