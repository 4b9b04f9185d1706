"""Judges a run by what the stores have in the end: `check` a history, or the journal alone.

    verdict = await check(history, place)
    verdict.assert_clean()

In this order: what the service answers now (a sample of the acknowledged operations is asked again,
then every account is read), until the journal has all that was answered; then, in one snapshot of
Postgres, each shard's journal from its first entry and what the tables have of it, fed to the judge
(judge.py); last the holds that the journal leaves behind, over HTTP. The unknown outcomes are
settled by their keys in the journal: an effect that is not there by then will not come.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

import orjson

from holdfast.loadwire import Requests, Target, WireLost
from tests.faults.evidence import ACCOUNTS, LINES, RECORDS, SHARDS, AccountRow, Line, RecordRow
from tests.faults.history import ANSWERED, History, Operation, no_effect
from tests.faults.judge import Expected, Judge
from tests.faults.load import NotSent, Reply, Speaker, path_of
from tests.faults.verdict import Verdict

__all__ = ["Reader", "Verdict", "check", "check_journal", "feed"]

T = TypeVar("T")

# Rows of the journal that are fetched at once: the event loop is busy with each page for 20 ms.
_PAGE = 500
_PAUSE_S = 0.02
_READERS = 8

VERSIONS = "SELECT account, version FROM account WHERE account = ANY($1)"


class Place(Protocol):
    """What a check needs to know of a place (place.py)."""

    @property
    def url(self) -> str: ...

    @property
    def key(self) -> str: ...

    def postgres_connection(self) -> AbstractAsyncContextManager[Any]: ...

    async def incidents(self) -> list[dict[str, Any]]: ...


async def check(
    history: History,
    place: Place,
    *,
    allow_lost: bool = False,
    reported: bool = True,
    repeat: int = 32,
    timeout_s: float = 30.0,
) -> Verdict:
    """What is wrong with what `history` says, as the stores of `place` have it.

    The service must be open, and no load may run. `allow_lost`: acknowledged effects may be gone
    (but none that was answered as settled), if they are the end of a life of Redis, which a note of
    the history ends; they are counted. `reported`: then incidents must account for all of them.
    `repeat`: so many acknowledged operations are asked again, and must be answered the same.
    `timeout_s` bounds the waits for answers and for the settlement, each.
    """
    verdict = Verdict()
    async with Reader(place, timeout_s) as reader:
        if not allow_lost:
            await _repeat(history, reader, verdict, repeat)
        finals = await reader.accounts(history.accounts(), verdict)
        judge = Judge(history, finals, allow_lost=allow_lost, verdict=verdict)
        async with place.postgres_connection() as connection:
            await _settled(connection, finals, timeout_s)
            await feed(judge, connection)
        await reader.each(judge.holds, lambda wanted: _hold(wanted, reader, verdict))
    return judge.close(await place.incidents(), reported=reported)


async def check_journal(place: Place) -> Verdict:
    """What is wrong with the journal and the tables by themselves, whatever was asked and answered.

    Overspending by commits and charges cannot be told from debt that was asked for.
    """
    judge = Judge()
    async with place.postgres_connection() as connection:
        await feed(judge, connection)
    return judge.close()


# ── Postgres ─────────────────────────────────────────────────────────────────────────────────────


async def _settled(connection: Any, finals: dict[str, dict[str, Any]], timeout_s: float) -> None:
    """Until the journal has the version of each account that was answered, or time is up."""
    wanted = {name: final["version"] for name, final in finals.items()}
    give_up_at = time.monotonic() + timeout_s
    while wanted and time.monotonic() < give_up_at:
        for name, version in await connection.fetch(VERSIONS, list(wanted)):
            if version >= wanted[name]:
                del wanted[name]
        if wanted:
            await asyncio.sleep(_PAUSE_S)


async def feed(judge: Judge, connection: Any) -> None:
    """Every shard of one snapshot to the judge."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for shard, mark, chain in await connection.fetch(SHARDS):
            judge.begin(shard)
            async for rows in _pages(connection, LINES, shard):
                for row in rows:
                    judge.entry(Line(*row))
            accounts = [AccountRow(*row) for row in await connection.fetch(ACCOUNTS, shard)]
            judge.tables(accounts)
            async for rows in _pages(connection, RECORDS, shard):
                judge.records(RecordRow(*row) for row in rows)
            judge.end(mark, chain)


async def _pages(connection: Any, statement: str, shard: int) -> AsyncIterator[list[Any]]:
    cursor = await connection.cursor(statement, shard)
    while rows := await cursor.fetch(_PAGE):
        yield rows


# ── HTTP ─────────────────────────────────────────────────────────────────────────────────────────


class Reader:
    """Reads from a service, as often as it takes, a few requests at a time."""

    def __init__(self, place: Place, timeout_s: float) -> None:
        target = Target.parse(place.url)
        self.requests = Requests(target, place.key)
        self._timeout_s = timeout_s
        self._give_up_at = 0.0
        self._speakers = [Speaker([target], 0, 5.0) for _ in range(_READERS)]
        self._idle: asyncio.Queue[Speaker] = asyncio.Queue()
        for speaker in self._speakers:
            self._idle.put_nowait(speaker)

    async def __aenter__(self) -> Reader:
        return self

    async def __aexit__(self, *_: object) -> None:
        for speaker in self._speakers:
            await speaker.aclose()

    async def ask(self, request: bytes) -> Reply:
        """Until there is an answer below 500, or time is up: then the last one, or 0 for none."""
        speaker = await self._idle.get()
        reply = Reply(0, b"", False)
        try:
            while True:
                with contextlib.suppress(NotSent, WireLost):
                    reply = await speaker.ask(request)
                    if reply.status < 500:
                        return reply
                if time.monotonic() >= self._give_up_at:
                    return reply
                await asyncio.sleep(_PAUSE_S)
        finally:
            self._idle.put_nowait(speaker)

    async def each(self, items: Iterable[T], act: Any) -> None:
        """`act` on all items, as many at once as there are connections, within the time."""
        rest = iter(items)
        self._give_up_at = time.monotonic() + self._timeout_s

        async def work() -> None:
            for item in rest:
                await act(item)

        async with asyncio.TaskGroup() as group:
            for _ in range(_READERS):
                group.create_task(work())

    async def accounts(self, names: Sequence[str], verdict: Verdict) -> dict[str, dict[str, Any]]:
        """Every account as it is answered now."""
        found: dict[str, dict[str, Any]] = {}

        async def read(name: str) -> None:
            reply = await self.ask(self.requests.get(f"/v1/accounts/{name}"))
            if reply.status == 200:
                found[name] = orjson.loads(reply.body)
            else:
                verdict.add("final", f"GET {name} answers {reply.status} {reply.body[:200]!r}")

        await self.each(names, read)
        return found


async def _repeat(history: History, reader: Reader, verdict: Verdict, count: int) -> None:
    """Ask acknowledged operations again: the same answer, and nothing new in the journal."""
    done = [o for o in history.operations if o.outcome == "ok" and not no_effect(o)]
    chosen = random.Random(len(done)).sample(done, min(count, len(done)))

    async def again(operation: Operation) -> None:
        body = orjson.dumps(operation.sent).decode()
        reply = await reader.ask(reader.requests.post(path_of(operation), body, operation.key))
        if reply.status != 200:
            told = f"{operation.key}, asked again, is answered {reply.status} {reply.body[:200]!r}"
            verdict.add("wrong_answer", told)
            return
        said = orjson.loads(reply.body)
        for name in ANSWERED:
            if name != "durability" and said.get(name) != (was := operation.answer.get(name)):
                told = f"{operation.key}, asked again, is answered {name} {said.get(name)}"
                verdict.add("wrong_answer", f"{told}, it was {was}")
        if not reply.replayed:
            verdict.add("wrong_answer", f"{operation.key}, asked again, is no replay")
        verdict.repeated += 1

    await reader.each(chosen, again)


async def _hold(wanted: Expected, reader: Reader, verdict: Verdict) -> None:
    """A hold that the journal leaves behind, as the service answers it."""
    account, hold, record = wanted
    reply = await reader.ask(reader.requests.get(f"/v1/accounts/{account}/holds/{hold}"))
    if reply.status != 200:
        told = f"GET {account} {hold} answers {reply.status} {reply.body[:200]!r}"
        verdict.add("final", told)
        return
    said = orjson.loads(reply.body)
    if said["state"] == "expired" and record.state == "held":
        return  # its deadline passed since
    for name in ("state", "amount", "committed", "remaining", "uncollected", "late"):
        if said[name] != (has := getattr(record, name)):
            told = f"the service answers {name} {said[name]}, the journal has {has}"
            verdict.add("final", f"hold {hold} of {account}: {told}")
