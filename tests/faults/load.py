"""A load of every kind of operation, by many callers over few connections, as a history.

    load = Load([place.url], place.key, history, seed=7)
    await load.open()                                # accounts, funded
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run(stop=stop))
        ...                                          # the fault
        stop.set()

Each caller has a connection and one operation under way; nothing below it repeats anything. Which
operation comes next is drawn from the seed and from what the account was last seen to have (mix.py)
and accounts are drawn by Zipf's law, so that a few of them have many callers at once.

What an answer means is the contract's word (docs/api.md): 4xx, 503 `store_unavailable` and
`overloaded` are refusals, which changed nothing; 503 `outcome_unknown`, any other 5xx and an answer
that never came leave the outcome unknown. A repeat with the same key that is answered well settles
that; one that is refused does not, for the first attempt may still be on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from typing import NamedTuple

import orjson

from holdfast.loadwire import Requests, Target, Wire, WireLost, connect
from holdfast.replay_plan import ZipfDraw
from tests.faults.history import ANSWERED, History, Operation
from tests.faults.mix import Draws, Mix, Plan, Purse

__all__ = ["Load", "NotSent", "Reply", "Speaker", "code_of", "load", "path_of"]

# An API process answers within its own call_timeout_ms (2 s), or it hangs.
_ATTEMPT_S = 5.0
# A refused caller comes again after 5 ms, the next time after 10, 20 and so on up to the last, each
# shortened at random by up to half: a service that is closed for 2.5 s is asked 35 times a caller.
_PAUSE_FIRST_S = 0.005
_PAUSE_LAST_S = 0.1
# Operations whose outcome is unknown are given up after a deadline; this bounds them before it is
# set: a minute and more of a service that is closed.
_ATTEMPTS = 1_000

_NOTHING_HAPPENED = frozenset({"store_unavailable", "overloaded"})


class Reply(NamedTuple):
    """One answer."""

    status: int
    body: bytes
    replayed: bool


class NotSent(Exception):
    """There was no connection to ask on."""


class _Line(Wire):
    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s=timeout_s)
        self._reply: asyncio.Future[Reply] | None = None
        self._replayed = False

    def ask(self, request: bytes) -> asyncio.Future[Reply]:
        self._reply = self._loop.create_future()
        self._replayed = False
        self.send(request)
        return self._reply

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 20 and name.lower() == b"idempotency-replayed":
            self._replayed = value == b"true"

    def answered(self, status: int, body: bytes) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(Reply(status, body, self._replayed))

    def lost(self) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(WireLost("the connection ended before the answer"))


class Speaker:
    """A connection to one of several addresses, made again, to the next one, where it is lost."""

    def __init__(self, targets: Sequence[Target], first: int, timeout_s: float) -> None:
        self._targets = targets
        self._next = first
        self._timeout_s = timeout_s
        self._line: _Line | None = None

    async def ask(self, request: bytes) -> Reply:
        """Send once. Raises NotSent, or WireLost where it may have been read."""
        line = self._line
        if line is None or not line.usable:
            line = self._line = await self._connect()
        try:
            return await line.ask(request)
        except asyncio.CancelledError:
            await line.aclose()  # the answer may still come: it must not meet the next request
            raise

    async def _connect(self) -> _Line:
        target = self._targets[self._next % len(self._targets)]
        timeout_s = self._timeout_s
        try:
            return await connect(target, lambda: _Line(timeout_s), timeout_s=timeout_s)
        except WireLost as lost:
            self._next += 1
            raise NotSent(str(lost)) from lost

    async def aclose(self) -> None:
        if self._line is not None:
            await self._line.aclose()


class Load:
    """Callers on accounts of their own. Open them once, then run as often as you like."""

    def __init__(
        self,
        urls: Sequence[str],
        key: str,
        history: History,
        *,
        seed: int,
        accounts: int = 50,
        mix: Mix | None = None,
        durability: str | None = None,
        retry_unknown: bool = True,
        timeout_s: float = _ATTEMPT_S,
        patience_s: float = 10.0,
    ) -> None:
        """`retry_unknown`: repeat with the same key, until `patience_s` after the load's end."""
        self.mix = mix or Mix()
        self.history = history
        self.purses = [Purse(f"a{seed}-{number:04d}") for number in range(accounts)]
        self.decided = 0
        """Operations that ended, but for those that a closed service refused."""
        self._seed = seed
        self._targets = [Target.parse(url) for url in urls]
        self._requests = Requests(self._targets[0], key, durability)
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._retry_unknown = retry_unknown
        self._callers = 0
        self._stop = asyncio.Event()
        self._limit: int | None = None
        self._give_up_at: float | None = None

    # Life

    async def open(self, *, timeout_s: float = 30.0) -> None:
        """Open all accounts and fund them, as often as it takes. Raises TimeoutError."""
        rest = iter(self.purses)

        async def work(number: int) -> None:
            rng = random.Random(f"open/{self._seed}/{number}")
            speaker = Speaker(self._targets, number, self._timeout_s)
            try:
                for purse in rest:
                    await self._open(purse, speaker, rng)
            finally:
                await speaker.aclose()

        async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
            for number in range(min(len(self.purses), 8)):
                group.create_task(work(number))

    async def _open(self, purse: Purse, speaker: Speaker, rng: random.Random) -> None:
        settings = {}
        if random.Random(purse.name).random() < self.mix.overdraft_share:
            settings["overdraft_limit"] = self.mix.funds // 10
        request = self._requests.put(f"/v1/accounts/{purse.name}", orjson.dumps(settings).decode())
        status = 0
        while status not in (200, 201):  # the caller has the deadline
            with contextlib.suppress(NotSent, WireLost):
                status = (await speaker.ask(request)).status
            if status not in (200, 201):
                await asyncio.sleep(_PAUSE_LAST_S)
        funds = Plan("grant", None, {"amount": self.mix.funds, "source": "purchase"})
        while purse.available <= 0:
            operation = await self._carry_out(funds, purse, speaker, rng)
            if operation.outcome != "ok":
                await asyncio.sleep(_PAUSE_LAST_S)

    async def run(
        self,
        *,
        callers: int = 32,
        stop: asyncio.Event | None = None,
        operations: int | None = None,
    ) -> None:
        """Until `stop` is set, or so many operations were decided, whichever comes first.

        What a closed service refused (503, no connection) is not counted: it decided nothing.
        """
        assert stop is not None or operations is not None, "a load must end"
        self._stop = stop or asyncio.Event()
        self._limit = None if operations is None else self.decided + operations
        self._give_up_at = None
        # Callers of a second run go on drawing, instead of drawing the same again.
        first = self._callers
        self._callers += callers
        async with asyncio.TaskGroup() as group:
            for number in range(first, self._callers):
                group.create_task(self._call(number))

    def _over(self) -> bool:
        over = self._stop.is_set() or (self._limit is not None and self.decided >= self._limit)
        if over and self._give_up_at is None:
            self._give_up_at = time.monotonic() + self._patience_s
        return over

    async def _call(self, number: int) -> None:
        rng = random.Random(f"call/{self._seed}/{number}")
        draws = Draws(self.mix, rng)
        seed = f"zipf/{self._seed}/{number}"
        zipf = ZipfDraw(len(self.purses), self.mix.zipf_exponent, seed=seed)
        speaker = Speaker(self._targets, number, self._timeout_s)
        refused = 0
        try:
            while not self._over():
                purse = self.purses[zipf.draw()]
                plan = draws.next(purse, time.time())
                operation = await self._carry_out(plan, purse, speaker, rng)
                if _closed(operation):
                    refused += 1
                    await _pause(refused, rng)
                else:
                    refused = 0
                    self.decided += 1
        finally:
            await speaker.aclose()

    # One operation

    async def _carry_out(
        self, plan: Plan, purse: Purse, speaker: Speaker, rng: random.Random
    ) -> Operation:
        """Ask until the outcome is known, or nobody wants to know it any more."""
        key = f"{plan.kind[:2]}-{self._seed}-{len(self.history)}"
        hold = key if plan.kind == "reserve" else plan.hold
        operation = self.history.ask(
            plan.kind, purse.name, key, hold=hold, amount=plan.amount, sent=plan.sent
        )
        body = orjson.dumps(plan.sent).decode()
        request = self._requests.post(path_of(operation), body, key)
        while not await self._attempt(operation, request, speaker) and self._goes_on(operation):
            await _pause(operation.attempts, rng)
        self.history.end(operation)
        if operation.outcome == "ok":
            purse.learn(operation, self.mix.ttl_s, time.time())
        return operation

    def _goes_on(self, operation: Operation) -> bool:
        """Whether an operation whose outcome is unknown is asked for again."""
        if not self._retry_unknown or operation.attempts >= _ATTEMPTS:
            return False
        return not self._over() or time.monotonic() < (self._give_up_at or 0.0)

    async def _attempt(self, operation: Operation, request: bytes, speaker: Speaker) -> bool:
        """Ask once; whether asking again is of no use."""
        first = operation.attempts == 0
        operation.attempts += 1
        try:
            reply = await speaker.ask(request)
        except NotSent:
            operation.code, status = "not_sent", 503
            # Nothing was sent now; what was sent before stays as unknown as it was.
            certain = True
        except WireLost:
            operation.code, status, certain = "lost", 0, False
        else:
            status = reply.status
            if status in (200, 201):
                _take(operation, reply)
                return True
            operation.code = code_of(reply)
            denied = 400 <= status < 500 and not operation.code.startswith("http_")
            certain = denied or operation.code in _NOTHING_HAPPENED
        if not certain:
            operation.maybe = True
        elif not operation.maybe:
            operation.outcome, operation.answered_ns = "refused", time.monotonic_ns()
            return True
        # A denial is an answer: that of an earlier attempt does not come any more.
        return certain and status < 500 and not first


def _take(operation: Operation, reply: Reply) -> None:
    operation.answered_ns = time.monotonic_ns()
    document = orjson.loads(reply.body)
    operation.answer = {name: document[name] for name in ANSWERED if name in document}
    operation.outcome, operation.code, operation.replay = "ok", "", reply.replayed


def code_of(reply: Reply) -> str:
    """The code of a refusal; `http_<status>` for one that is not holdfast's own."""
    with contextlib.suppress(orjson.JSONDecodeError, KeyError, TypeError):
        code: str = orjson.loads(reply.body)["code"]
        return code
    return f"http_{reply.status}"


def path_of(operation: Operation) -> str:
    """Where an operation is sent to."""
    path = f"/v1/accounts/{operation.account}/"
    match operation.kind:
        case "grant" | "charge" | "refund":
            return f"{path}{operation.kind}s"
        case "reserve":
            return f"{path}holds"
        case "partial":
            return f"{path}holds/{operation.hold}/commit"
    return f"{path}holds/{operation.hold}/{operation.kind}"


def _closed(operation: Operation) -> bool:
    """Whether it was refused by a service that decides nothing now."""
    code = operation.code
    return operation.outcome == "refused" and (code in _NOTHING_HAPPENED or code == "not_sent")


async def _pause(times: int, rng: random.Random) -> None:
    pause_s = min(_PAUSE_FIRST_S * 2.0 ** min(times - 1, 10), _PAUSE_LAST_S)
    await asyncio.sleep(pause_s * rng.uniform(0.5, 1.0))


async def load(
    urls: Sequence[str],
    key: str,
    history: History,
    *,
    seed: int,
    accounts: int = 50,
    callers: int = 32,
    stop: asyncio.Event | None = None,
    operations: int | None = None,
    mix: Mix | None = None,
    durability: str | None = None,
    retry_unknown: bool = True,
    timeout_s: float = _ATTEMPT_S,
    patience_s: float = 10.0,
) -> Load:
    """Open accounts, run until `stop` or so many operations; the load, to be run again."""
    made = Load(
        urls,
        key,
        history,
        seed=seed,
        accounts=accounts,
        mix=mix,
        durability=durability,
        retry_unknown=retry_unknown,
        timeout_s=timeout_s,
        patience_s=patience_s,
    )
    await made.open()
    await made.run(callers=callers, stop=stop, operations=operations)
    return made
