"""Replays a trace of LLM calls against the service, then checks the service's books.

Every row is one call: reserve an estimate, then commit the cost, or release for a call that fails.
A request whose outcome is not known is repeated with the same key until it is, also across a
restart of the service. At the end the balances and the journal of every account are compared with
what was acknowledged (`replay_books.py`). What will be asked for is worked out in `replay_plan.py`.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from holdfast.client import Account, AsyncClient, HoldfastError
from holdfast.latency import LatencySummary, summarise
from holdfast.load_accounts import LOAD_CLIENT_RETRIES, each, open_accounts
from holdfast.loadwire import Line, Requests, Target
from holdfast.replay_books import AccountAudit, AccountBooks, CallRecord, Difference
from holdfast.replay_calls import CallMaker, NoOutcomeError, ReplayError, Tally
from holdfast.replay_plan import (
    SYNTHETIC_ROWS,
    PlannedCall,
    ReplayOptions,
    ReplayPlan,
    parse_speed,
    plan_replay,
)
from holdfast.trace import Trace, TraceError, read_trace, synthetic_trace

__all__ = ["ReplayError", "ReplayOptions", "ReplayReport", "TraceError", "run_replay"]

# Pauses while the journal catches up: it does within a second, most often within the first.
_PAUSE_MIN_S = 0.05
_PAUSE_MAX_S = 1.0


@dataclass(frozen=True)
class ReplayReport:
    """What a replay did and found. Credits are in microcredits.

    `calls` is how many rows were begun; of them `denied` were refused for want of credits,
    `refused` for another reason, `late` were committed after their hold had expired,
    `over_estimate` cost more than their hold, `shortfalls` more than hold and account together
    (the commit was capped, made debt, or was repeated with the hold's amount, as was chosen).
    `unfinished` holds were reserved, but the service refused to end them; `unknown` operations
    never got an answer. `abandoned` calls were not begun, because the service had gone.
    `not_compared` says why the comparison could not be made, or not on all accounts.
    """

    source: str
    prefix: str
    accounts: int
    expected_output_tokens: int
    calls: int
    denied: int
    refused: int
    committed: int
    released: int
    late: int
    over_estimate: int
    shortfalls: int
    unfinished: int
    unknown: int
    abandoned: int
    credits_granted: int
    credits_reserved: int
    credits_committed: int
    credits_released: int
    credits_uncollected: int
    errors: dict[str, int]
    durability: dict[str, int]
    latency: dict[str, LatencySummary]
    elapsed_s: float
    behind_s: float
    requests: int
    requests_per_s: float
    entries_compared: int
    journal_waited_s: float
    not_compared: str | None
    differences: tuple[Difference, ...]

    @property
    def exit_code(self) -> int:
        """0: the service's books agree with its acknowledgements, 1: they differ, 2: not known."""
        if self.differences:
            return 1
        return 0 if self.not_compared is None else 2


async def run_replay(
    options: ReplayOptions, *, on_progress: Callable[[int, int], None] | None = None
) -> ReplayReport:
    """Replay a trace and compare the books; `on_progress` hears calls done and calls in all.

    Raises TraceError for a bad trace, ReplayError where the accounts cannot be opened or an answer
    cannot be read.
    """
    trace = load_trace(options)
    plan = plan_replay(options, trace)
    replay = _Replay(options, plan, on_progress or (lambda done, total: None))
    client = AsyncClient(
        options.url, options.api_key, retries=LOAD_CLIENT_RETRIES, timeout_s=options.timeout_s
    )
    async with client:
        try:
            await replay.prepare(client)
        except HoldfastError as error:
            raise ReplayError(f"the accounts could not be opened: {error}") from error
        await replay.drive()
        comparison = await replay.compare(client)
    return replay.report(comparison)


def load_trace(options: ReplayOptions) -> Trace:
    """The trace that the options name, or the synthetic one. Raises TraceError."""
    if options.file is not None:
        return read_trace(options.file, limit=options.limit)
    return synthetic_trace(options.limit or SYNTHETIC_ROWS, seed=options.seed)


@dataclass(frozen=True)
class _Comparison:
    differences: tuple[Difference, ...]
    entries: int
    waited_s: float
    failure: str | None


class _Replay:
    """One run: prepare, drive, compare, report."""

    def __init__(
        self, options: ReplayOptions, plan: ReplayPlan, on_progress: Callable[[int, int], None]
    ) -> None:
        self._options = options
        self._plan = plan
        self._on_progress = on_progress
        self._prefix = f"replay-{secrets.token_hex(4)}"
        self._books = {
            number: AccountBooks(f"{self._prefix}-{number:05d}", plan.grants[number])
            for number in sorted({call.account for call in plan.calls})
        }
        self._target = Target.parse(options.url)
        self._tally = Tally()
        requests = Requests(self._target, options.api_key, options.durability)
        self._maker = CallMaker(options, requests, self._tally)
        self._speed = parse_speed(options.speed)
        self._begun_at = 0.0
        self._elapsed_s = 0.0
        self._behind_s = 0.0
        self._gone = False

    # -- before -------------------------------------------------------------------------------

    async def prepare(self, client: AsyncClient) -> None:
        """Open every account and put its grant into it."""
        await open_accounts(
            client, {books.account: books.granted for books in self._books.values()}
        )

    # -- the load -----------------------------------------------------------------------------

    async def drive(self) -> None:
        """Make all calls, each when it is due, `concurrency` of them at once."""
        self._begun_at = self._tally.heard_at = time.perf_counter()
        calls = iter(self._plan.calls)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._options.concurrency, len(self._plan.calls))):
                    group.create_task(self._work(calls))
        except* ReplayError as errors:
            raise errors.exceptions[0] from errors
        self._elapsed_s = time.perf_counter() - self._begun_at

    async def _work(self, calls: Iterator[PlannedCall]) -> None:
        """Take the next call, wait until it is due, make it; on one connection, to the end.

        Workers take calls in order, so that a timed replay needs no queue: each waits with the
        call it took. Once the service has not answered anybody for as long as patience lasts, the
        rest is not begun.
        """
        line = Line(self._target, timeout_s=self._options.timeout_s)
        try:
            for call in calls:
                if self._gone:
                    return
                due_s = self._begun_at + call.at_s / self._speed
                wait_s = due_s - time.perf_counter()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                elif not math.isinf(self._speed):
                    self._behind_s = max(self._behind_s, -wait_s)
                await self._replay_call(line, call)
        finally:
            await line.aclose()

    async def _replay_call(self, line: Line, call: PlannedCall) -> None:
        books = self._books[call.account]
        record = CallRecord(f"{self._prefix}-{call.number}", call.estimate, call.cost)
        tally = self._tally
        tally.calls += 1
        books.records[record.hold] = record
        try:
            await self._maker.make(line, books.account, record, fails=call.fails)
        except NoOutcomeError as end:
            if end.uncertain:
                record.unknown = end.operation
            elif end.operation == "reserve":
                tally.refused += 1
            silent_s = time.perf_counter() - tally.heard_at
            self._gone = self._gone or silent_s >= self._options.patience_s
        self._on_progress(tally.calls, len(self._plan.calls))

    # -- afterwards ---------------------------------------------------------------------------

    async def compare(self, client: AsyncClient) -> _Comparison:
        """Read every account and its journal, and compare them with the books."""
        began = time.perf_counter()
        deadline = began + self._options.journal_wait_s
        differences = list(self._tally.misanswers)
        entries_read = 0

        async def compare_account(books: AccountBooks) -> None:
            nonlocal entries_read
            audit = AccountAudit(books)
            audit.close(await _read_journal(client, books.account, audit, deadline))
            entries_read += audit.entries
            differences.extend(audit.differences)

        failure: str | None = None
        try:
            await each(self._books.values(), compare_account)
        except HoldfastError as error:
            failure = str(error)
        differences.sort(key=lambda each: each.account)
        waited_s = time.perf_counter() - began
        return _Comparison(tuple(differences), entries_read, waited_s, failure)

    def report(self, comparison: _Comparison) -> ReplayReport:
        """Everything that is told of the run."""
        tally = self._tally
        records = [record for books in self._books.values() for record in books.records.values()]
        committed = [each.committed for each in records if each.committed is not None]
        ended = [each for each in records if each.released is not None or each.expired]
        unknown = sum(1 for each in records if each.unknown)
        reserved = [each for each in records if each.reserved is not None]
        requests = sum(len(series) for series in tally.latency.values())
        return ReplayReport(
            source=self._plan.source,
            prefix=self._prefix,
            accounts=len(self._books),
            expected_output_tokens=self._plan.expected_output_tokens,
            calls=tally.calls,
            denied=tally.denied,
            refused=tally.refused,
            committed=len(committed),
            released=len(ended),
            late=sum(1 for each in records if each.late),
            over_estimate=tally.over_estimate,
            shortfalls=tally.shortfalls,
            unfinished=sum(
                1
                for each in reserved
                if each.committed is None
                and each.released is None
                and not each.expired
                and each.unknown is None
            ),
            unknown=unknown,
            abandoned=len(self._plan.calls) - tally.calls,
            credits_granted=sum(each.granted for each in self._books.values()),
            credits_reserved=sum(each.reserved or 0 for each in reserved),
            credits_committed=sum(committed),
            credits_released=sum(each.reserved or 0 for each in ended),
            credits_uncollected=sum(each.uncollected for each in records),
            errors=dict(tally.errors.most_common()),
            durability=dict(tally.durability.most_common()),
            latency={name: summarise(series) for name, series in tally.latency.items()},
            elapsed_s=round(self._elapsed_s, 3),
            behind_s=round(self._behind_s, 3),
            requests=requests,
            requests_per_s=round(requests / self._elapsed_s, 1) if self._elapsed_s else 0.0,
            entries_compared=comparison.entries,
            journal_waited_s=round(comparison.waited_s, 3),
            not_compared=comparison.failure,
            differences=comparison.differences,
        )


async def _read_journal(
    client: AsyncClient, account: str, audit: AccountAudit, deadline: float
) -> Account:
    """Show the audit the account's journal; the account, once it has the journal's version.

    An entry is in the journal within a second of its change. A journal that lags is waited for,
    until `deadline`; then the account is given as it is, and the audit finds what is missing.
    """
    cursor: str | None = None
    pause_s = _PAUSE_MIN_S
    while True:
        found = await client.get_account(account)
        while True:
            page = await client.entries(account, after=cursor, limit=1_000)
            # The last page is read again while it grows: it has no cursor of its own yet.
            newest = audit.version
            for entry in page.data:
                if entry.version > newest:
                    audit.take(entry)
            if page.next is None:
                break
            cursor = page.next
        if audit.version == found.version or time.perf_counter() >= deadline:
            return found
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _PAUSE_MAX_S)
