"""Computes a journal again: numbers without a gap, the chain, and the balances it adds up to.

One pass over a shard in one snapshot, so that what it leads to and what the tables have is of the
same mark. Where months are archived, it goes on from what they led to: the shard from its last
archived entry, each account from its opening. Entries that were in quarantine count as an operator
left them: applied as they are read now, voided with the correction that was booked. An account that
is in quarantine is not compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from hashlib import sha1
from typing import Any, Final

import orjson

from settlement.fold import movement
from settlement.queries import Connection, Pool, sql
from settlement.reader import CARRIED, Entry, raw_bytes, read_entry
from settlement.report import Report

_PAGE: Final = 2000  # rows of one fetch: about 2 MB
# A million accounts of a shard are sorted in some seconds.
_OPENINGS_S: Final = 600.0
_SUMS: Final = ("base", "debt", "granted", "refunded", "spent", "forfeited")


@dataclass(slots=True)
class _Account:
    """What the entries of one account lead to."""

    version: int = 0
    last_seq: int = 0
    available: int = 0
    held: int = 0
    sums: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CARRIED, 0))
    waiting: int = 0
    """Entries in quarantine."""
    whole: bool = True
    """Whether all of its entries are known, from the first one or from its opening."""

    @classmethod
    def opened(cls, row: Mapping[str, Any]) -> _Account:
        """As it was at the end of what is archived."""
        balances = (row["version"], row["last_seq"], row["available"], row["held"])
        return cls(*balances, {counter: row[counter] for counter in CARRIED})


class Audit:
    """The audit of one shard's journal, or of one account's part of it."""

    def __init__(self, report: Report, number: int) -> None:
        self.report = report
        self.number = number
        self._accounts: dict[str, _Account] = {}
        self._quarantined: dict[int, Mapping[str, Any]] = {}
        self._detached: int | None = None
        """The last entry that the journal has no more, where old months were detached by hand."""
        self._archived = 0
        """The last entry that is archived."""

    async def begin(
        self, conn: Connection, account: str | None = None, before: date | None = None
    ) -> tuple[int, str]:
        """Start behind what is archived; answers its last entry and the chain of that.

        `account` is the only one that is looked at; with `before`, a first day, what is archived of
        that month and later ones does not count. Raises what asyncpg raises.
        """
        row = await conn.fetchrow(sql("opening_shard"), self.number, before)
        if row is None:
            return 0, ""
        self._archived = row["seq"]
        openings = (sql("opening_accounts"), self.number, account, before)
        for opening in await conn.fetch(*openings, timeout=_OPENINGS_S):
            self._accounts[opening["account"]] = _Account.opened(opening)
        return row["seq"], row["chain"]

    async def read_quarantined(self, conn: Connection, account: str | None = None) -> None:
        """Learn how operators left what was in quarantine. Raises what asyncpg raises."""
        number = self.number if account is None else None
        rows = await conn.fetch(sql("reconcile_quarantined"), number, account)
        self._quarantined = {row["seq"]: row for row in rows}

    def take(self, rows: Sequence[Any], last: int, chain: str) -> tuple[int, str]:
        """Link and add up entries behind `last`, whose chain is `chain`; answers where they end."""
        last, chain = self._link(rows, last, chain)
        for entry in rows:
            self._fold(entry)
        return last, chain

    def openings(self) -> Iterator[tuple[Any, ...]]:
        """What the entries that were taken lead to: account, version, last_seq, available, held,
        base, debt, granted, refunded, spent, forfeited; of each account that had any."""
        for name, account in self._accounts.items():
            if account.last_seq > self._archived:
                sums = (account.sums[counter] for counter in _SUMS)
                balances = (account.version, account.last_seq, account.available, account.held)
                yield name, *balances, *sums

    async def shard(self, pool: Pool) -> None:
        """All of the shard: chain, numbers, and every account. Raises what asyncpg raises."""
        async with (
            pool.acquire() as conn,
            conn.transaction(isolation="repeatable_read", readonly=True),
        ):
            await conn.execute(sql("reconcile_patience"))
            await conn.execute(sql("reconcile_months"))
            row = await conn.fetchrow(sql("reconcile_shard"), self.number)
            await self.read_quarantined(conn)
            last, chain = await self.begin(conn)
            await self._compare_archived(conn)
            cursor = await conn.cursor(sql("reconcile_journal"), self.number, last)
            while rows := await cursor.fetch(_PAGE):
                last, chain = self.take(rows, last, chain)
            if (last, chain) != (row["mark"], row["chain"]):
                self._differ(
                    "mark",
                    f"the mark is {row['mark']} ({row['chain'] or 'no chain'}), the journal ends at"
                    f" {last} ({chain or 'no chain'})",
                )
            cursor = await conn.cursor(sql("reconcile_balances"), self.number)
            while rows := await cursor.fetch(_PAGE):
                for account in rows:
                    self._compare(account)
        for name, folded in self._accounts.items():
            if folded.waiting:
                self.report.skip(f"account {name or '?'}: {folded.waiting} entries in quarantine")
            else:
                self._differ("fold", "the journal has entries of it, the tables do not", name)

    async def account(self, pool: Pool, account: str) -> None:
        """The part of one account. Raises what asyncpg raises."""
        async with (
            pool.acquire() as conn,
            conn.transaction(isolation="repeatable_read", readonly=True),
        ):
            await conn.execute(sql("reconcile_patience"))
            await conn.execute(sql("reconcile_months"))
            await self.read_quarantined(conn, account)
            self._detached = 0  # whether the shard's first months are there is not looked at
            last, _ = await self.begin(conn, account)
            cursor = await conn.cursor(sql("reconcile_journal_account"), account, last)
            while rows := await cursor.fetch(_PAGE):
                for entry in rows:
                    self._fold(entry)
            for row in await conn.fetch(sql("reconcile_accounts"), [account]):
                self._compare(row)

    async def _compare_archived(self, conn: Connection) -> None:
        left = await conn.fetchval(sql("reconcile_archived"), self.number, self._archived)
        if left:
            what = f"entries up to {self._archived} are archived, and the journal has {left} still"
            self._differ("archive", what)

    def _link(self, rows: Sequence[Any], last: int, chain: str) -> tuple[int, str]:
        """Numbers and chain over a page; answers where it ends."""
        if not last and rows[0]["seq"] > 1:
            # Old months were detached by hand: what is there is compared from there on.
            last = self._detached = rows[0]["seq"] - 1
            self.report.skip(f"shard {self.number}: its journal begins behind entry {last}")
        for row in rows:
            seq = row["seq"]
            if seq != last + 1:
                self._differ("gap", f"the journal has entry {seq} behind entry {last}")
            elif last != self._detached:
                linked = sha1(chain.encode() + raw_bytes(row["entry"]), usedforsecurity=False)
                if linked.hexdigest() != row["chain"]:
                    self._differ("chain", f"entry {seq} does not continue the chain")
            last, chain = seq, row["chain"]
        self.report.entries += len(rows)
        return last, chain

    def _fold(self, row: Any) -> None:
        """Add one entry to its account, as far as the tables have it."""
        seq, text = row["seq"], row["entry"]
        if (quarantined := self._quarantined.get(seq)) is not None:
            if quarantined["state"] != "applied":
                self._fold_quarantined(seq, quarantined)
                return
            text = quarantined["mended"] or text
        entry = read_entry(seq, row["chain"], raw_bytes(text))
        name = entry.account
        if entry.error:
            self._differ("entry", f"entry {seq}: {entry.error}", row["account"])
            return
        if (row["account"], row["version"], row["available"], row["held"]) != (
            *(name, entry.version, entry.available, entry.held),
        ):
            self._differ("entry", f"the columns of entry {seq} are not what it says", name)
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = self._begin(entry)
        available = account.available + movement(entry.delta)
        held = account.held + entry.delta.get("held", 0)
        leads_to = (account.version + 1, available, held)
        says = (entry.version, entry.available, entry.held)
        if leads_to != says:
            self._differ(
                "fold",
                f"entry {seq} says version, available, held {says}; what is before it leads to"
                f" {leads_to}",
                name,
            )
        account.version, account.available, account.held = says
        account.last_seq = seq
        for counter, value in entry.delta.items():
            account.sums[counter] += value

    def _begin(self, entry: Entry) -> _Account:
        """An account before its first entry that is there."""
        if entry.version == 1:
            return _Account()
        why = f"its first entry in the journal has version {entry.version}"
        if self._detached is None:
            self._differ("fold", why, entry.account)
        else:
            self.report.skip(f"account {entry.account}: {why}")
        return _Account(
            version=entry.version - 1,
            available=entry.available - movement(entry.delta),
            held=entry.held - entry.delta.get("held", 0),
            whole=False,
        )

    def _fold_quarantined(self, seq: int, row: Mapping[str, Any]) -> None:
        """One that waits stops its account here; of a voided one its correction counts."""
        account = self._accounts.setdefault(row["account"], _Account())
        if row["state"] == "open":
            account.waiting += 1
        elif row["correction"] is not None:
            correction = orjson.loads(row["correction"])
            account.version, account.last_seq = correction["version"], seq
            account.available = correction["available"]
            account.held += correction["held"]
            for name in ("base", "debt", "held", "granted"):
                account.sums[name] += correction[name]

    def _compare(self, row: Any) -> None:
        """What the entries of an account lead to, and what the tables have."""
        name = row["account"]
        account = self._accounts.pop(name, None)
        if account is None:
            if self._detached is None:
                self._differ("fold", "the tables have it, the journal has no entry of it", name)
            return
        if account.waiting or row["quarantined"]:
            self.report.skip(f"account {name}: {account.waiting} entries in quarantine")
            return
        expected = {
            "version": account.version,
            "last_seq": account.last_seq,
            "available": account.available,
            "held": account.held,
        }
        if account.whole:
            expected |= account.sums
        for column, value in expected.items():
            if row[column] != value:
                what = f"{column} is {row[column]}, its entries lead to {value}"
                self._differ("fold", what, name)

    def _differ(self, check: str, detail: str, account: str | None = None) -> None:
        self.report.differ(check, detail, shard=self.number, account=account or None)
