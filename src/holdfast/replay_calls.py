"""One call of a replay: its requests, repeated until their outcome is known, and its record."""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson

from holdfast.latency import new_series
from holdfast.loadwire import Answer, Line, Requests, WireLost
from holdfast.replay_books import CallRecord, Difference, Operation
from holdfast.replay_plan import ReplayOptions

__all__ = ["CallMaker", "NoOutcomeError", "ReplayError", "Tally"]

# Pauses between repeats of a request: from 50 ms doubling to 1 s, drawn from the upper half, so
# that all callers of a service that comes back do not come at once.
_PAUSE_MIN_S = 0.05
_PAUSE_MAX_S = 1.0


class ReplayError(Exception):
    """The replay cannot go on, or its books cannot be compared with the service's."""


class NoOutcomeError(Exception):
    """A request was repeated for as long as patience allowed. `uncertain`: it may have counted."""

    def __init__(self, operation: Operation, *, uncertain: bool) -> None:
        super().__init__(operation)
        self.operation = operation
        self.uncertain = uncertain


@dataclass(slots=True)
class Tally:
    """What is counted while calls are made. Latencies in seconds, `heard_at` by perf_counter."""

    calls: int = 0
    denied: int = 0
    refused: int = 0
    over_estimate: int = 0
    shortfalls: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    durability: Counter[str] = field(default_factory=Counter)
    latency: dict[str, array[float]] = field(
        default_factory=lambda: {name: new_series() for name in ("reserve", "commit", "release")}
    )
    heard_at: float = 0.0
    misanswers: list[Difference] = field(default_factory=list)


class CallMaker:
    """Makes calls and notes in their records what was acknowledged, and in the tally the rest."""

    def __init__(self, options: ReplayOptions, requests: Requests, tally: Tally) -> None:
        self._options = options
        self._requests = requests
        self._tally = tally

    async def make(self, line: Line, account: str, record: CallRecord, *, fails: bool) -> None:
        """Reserve, then commit, or release for a call that fails. Raises NoOutcomeError."""
        if not await self._reserve(line, account, record):
            return
        if fails:
            await self._release(line, account, record)
        else:
            await self._commit(line, account, record)

    async def _reserve(self, line: Line, account: str, record: CallRecord) -> bool:
        body = f'{{"amount":{record.estimate},"ttl_seconds":{self._options.ttl_seconds}}}'
        path = f"/v1/accounts/{account}/holds"
        request = self._requests.post(path, body, record.hold)
        answer = await self._known(line, "reserve", request)
        if answer.status >= 400:
            if answer.status == 402:
                self._tally.denied += 1
            else:
                self._tally.refused += 1
            return False
        hold = self._document(answer)
        record.reserved = hold["amount"]
        if record.reserved != record.estimate:
            self._misanswer(account, "amount of", record, record.estimate, record.reserved)
        return True

    async def _commit(self, line: Line, account: str, record: CallRecord) -> None:
        assert record.reserved is not None
        if record.cost > record.reserved:
            self._tally.over_estimate += 1
        asked = record.cost
        answer = await self._commit_amount(line, account, record, asked)
        if answer.status == 402:
            # Refused, hold unchanged: what the hold has is taken, the rest is nobody's.
            self._tally.shortfalls += 1
            asked = record.reserved
            answer = await self._commit_amount(line, account, record, asked)
        if answer.status >= 400:
            return
        hold = self._document(answer)
        record.committed = hold["committed"]
        record.uncollected = hold.get("uncollected") or 0
        record.late = hold.get("late") is True
        if hold["committed"] + record.uncollected != asked:
            found = hold["committed"] + record.uncollected
            self._misanswer(account, "committed and uncollected of", record, asked, found)
        in_debt = record.cost > record.reserved and (hold.get("available") or 0) < 0
        if record.uncollected or in_debt:
            self._tally.shortfalls += 1

    async def _commit_amount(
        self, line: Line, account: str, record: CallRecord, amount: int
    ) -> Answer:
        body = f'{{"amount":{amount},"on_shortfall":"{self._options.on_shortfall}"}}'
        path = f"/v1/accounts/{account}/holds/{record.hold}/commit"
        return await self._known(line, "commit", self._requests.post(path, body))

    async def _release(self, line: Line, account: str, record: CallRecord) -> None:
        path = f"/v1/accounts/{account}/holds/{record.hold}/release"
        request = self._requests.post(path, '{"reason":"call failed"}')
        answer = await self._known(line, "release", request)
        if answer.status >= 400:
            return
        if self._document(answer)["state"] == "expired":
            record.expired = True
        else:
            record.released = record.reserved

    async def _known(self, line: Line, operation: Operation, request: bytes) -> Answer:
        """Send until there is a final answer. Raises NoOutcomeError when patience ends."""
        uncertain = False
        pause_s = _PAUSE_MIN_S
        give_up_at: float | None = None
        while True:
            sent_at = time.perf_counter()
            wait_s = 0.0
            try:
                answer = await line.ask(request)
            except WireLost:
                self._tally.errors["connection_lost"] += 1
                uncertain = True
                now = time.perf_counter()
            else:
                self._tally.heard_at = now = time.perf_counter()
                self._tally.latency[operation].append(now - sent_at)
                if answer.status < 400:
                    return answer
                code, retryable = _problem(answer)
                self._tally.errors[code] += 1
                if not retryable:
                    return answer
                uncertain = uncertain or code == "outcome_unknown" or answer.status == 500
                if answer.retry_after is not None and answer.retry_after.isdigit():
                    wait_s = float(answer.retry_after)
            give_up_at = give_up_at or now + self._options.patience_s
            wait_s = max(wait_s, pause_s * random.uniform(0.5, 1.0))
            if now + wait_s > give_up_at:
                raise NoOutcomeError(operation, uncertain=uncertain)
            await asyncio.sleep(wait_s)
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)

    def _document(self, answer: Answer) -> dict[str, Any]:
        try:
            document: dict[str, Any] = orjson.loads(answer.body)
        except ValueError as error:
            text = answer.body[:80].decode("utf-8", "replace")
            raise ReplayError(f"status {answer.status}, but not JSON: {text!r}") from error
        self._tally.durability[str(document.get("durability"))] += 1
        return document

    def _misanswer(
        self, account: str, what: str, record: CallRecord, expected: int, found: int
    ) -> None:
        text = f"{what} hold {record.hold}, as answered"
        self._tally.misanswers.append(Difference(account, text, f"{expected:,}", f"{found:,}"))


def _problem(answer: Answer) -> tuple[str, bool]:
    """Code of an error, and whether to repeat the request.

    What is not a problem document is not the service's: a 5xx of something in between, or of a
    service that broke, leaves the outcome open, and the key makes a repeat safe.
    """
    try:
        document = orjson.loads(answer.body)
        return str(document["code"]), document.get("retryable") is True or answer.status == 500
    except (ValueError, KeyError, TypeError, AttributeError):
        broken = answer.status >= 500
        return "outcome_unknown" if broken else f"status_{answer.status}", broken
