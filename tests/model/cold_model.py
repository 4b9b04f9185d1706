"""Cold accounts, their records, and what is retried across a load, as a model.

One account of one shard. It is evicted and loaded, the shard is settled and rebuilt (what was not
settled is lost then, which is reported and allowed), and meanwhile callers retry: a call with a key
of its own, refunds of one charge (each under another key), a grant that runners of the outbox apply
until they see it in the journal. Whoever reads Postgres (loaders, askers for one record, runners)
remembers what he read, with its mark, and acts on it whenever he is chosen.

The window in which keys are remembered passes at once, for everything that was there: no rule looks
at a part of it. What a reader sends may carry the newest nonce, however old his reading is: marks
alone must do, but for the parts of one load.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

# What an entry did. A balance is a fold of entries: an account that has seen all of them has the
# right one, one that has seen fewer an older one.
SPEND, CALL, GRANT, REFUND = range(1, 5)
WORDS = {SPEND: "a spending", CALL: "the call", GRANT: "the grant", REFUND: "a refund"}

Log = tuple[int, ...]


class Rules(NamedTuple):
    """What the protocol demands. One that is False was taken out."""

    load_compares_evictions: bool = True
    load_needs_absence: bool = True
    load_keeps_its_nonce: bool = True
    """All parts of a load go under one nonce."""
    evict_is_noted: bool = True
    evict_needs_settled: bool = True
    rebuild_is_noted: bool = True
    complete_is_told: bool = True
    """A loader that brings no records says so."""
    absence_compares_mark: bool = True
    record_compares_refunds: bool = True
    grant_compares_mark: bool = True


class Scope(NamedTuple):
    """How far one search reaches, and who takes part."""

    entries: int
    spends: bool = False
    calls: bool = False
    refunds: bool = False
    grants: bool = False
    loaders: int = 1
    askers: int = 0
    """Who looks for the record of the call, or of the refunded charge."""
    runners: int = 0
    rebuilds: int = 1


class Account(NamedTuple):
    """The account in Redis. What was never evicted counts as complete."""

    seen: int
    """Entries that its balance has seen."""
    complete: bool = True
    load_mark: int = 0
    fresh: bool = False
    """The window since its load has not passed."""
    grant_seq: int = 0
    refund_seq: int = 0


class Loader(NamedTuple):
    """One load: a snapshot of Postgres, on its way to Redis in two parts."""

    mark: int = -1
    complete: bool = False
    nonce: int = -1
    """The first part, the records, has arrived, under this one."""


class Asker(NamedTuple):
    """One look for a record in Postgres."""

    mark: int = -1
    found: bool = False
    """The call's record was there; of the charge, a refund was."""


class Shard(NamedTuple):
    """Everything."""

    log: Log
    mark: int
    """Entries that are settled; `settled` of them are known to be so in Redis."""
    settled: int
    evicted: int
    """`last_evict_seq`."""
    account: Account | None
    call_known: bool
    """Redis has the record of the call; likewise of the grant."""
    grant_known: bool
    charge: int
    """The charge's record in Redis says that so much was refunded; -1: it is not there."""
    past: tuple[int, ...]
    """Kinds of entries whose window has passed."""
    loaders: tuple[Loader, ...]
    askers: tuple[Asker, ...]
    runners: tuple[int, ...]
    """The mark at which each runner saw the journal without the grant; -1: he looked at none."""
    rebuilds: int
    """How many may still happen."""
    nonce: int

    def appended(self, kind: int) -> Shard:
        """This shard after one more entry of the account, which is there."""
        assert self.account is not None
        log = (*self.log, kind)
        account = self.account._replace(seen=self.account.seen + 1)
        if kind == GRANT:
            account = account._replace(grant_seq=len(log))
        elif kind == REFUND:
            account = account._replace(refund_seq=len(log))
        return self._replace(log=log, account=account)


def last(log: Log, kind: int) -> int:
    """The number of the last entry of a kind, 0 if there is none."""
    return max((number for number, was in enumerate(log, start=1) if was == kind), default=0)


def changed(items: tuple[int, ...], which: int, item: int) -> tuple[int, ...]:
    """The items with another one in its place."""
    return (*items[:which], item, *items[which + 1 :])


class Cold:
    """The model. `rules` may have some taken out."""

    hopeless = "whatever follows, the account stays cold"

    def __init__(self, scope: Scope, rules: Rules) -> None:
        self.scope = scope
        self.rules = rules

    def start(self) -> Shard:
        scope = self.scope
        return Shard(
            log=(),
            mark=0,
            settled=0,
            evicted=0,
            account=Account(0),
            call_known=False,
            grant_known=False,
            charge=-1,
            past=(),
            loaders=(Loader(),) * scope.loaders,
            askers=(Asker(),) * scope.askers,
            runners=(-1,) * scope.runners,
            rebuilds=scope.rebuilds,
            nonce=0,
        )

    def same(self, shard: Shard) -> Shard:
        """Loaders, askers and runners have no names: each kind stands sorted."""
        return shard._replace(
            loaders=tuple(sorted(shard.loaders)),
            askers=tuple(sorted(shard.askers)),
            runners=tuple(sorted(shard.runners)),
        )

    def hoped(self, shard: Shard) -> bool:
        """The account is live."""
        return shard.account is not None

    def fault(self, shard: Shard) -> str | None:
        if shard.account is not None and shard.account.seen != len(shard.log):
            return "the account serves with an older balance"
        for kind in (CALL, GRANT, REFUND):
            if shard.log.count(kind) > 1:
                return f"{WORDS[kind]} happened twice"
        return None

    def steps(self, shard: Shard) -> Iterator[tuple[str, Shard]]:
        yield from self._calls(shard)
        yield from self._stores(shard)
        for which in range(len(shard.loaders)):
            yield from self._loader(shard, which)
        for which in range(len(shard.askers)):
            yield from self._asker(shard, which)
        for which in range(len(shard.runners)):
            yield from self._runner(shard, which)

    # Callers

    def _calls(self, shard: Shard) -> Iterator[tuple[str, Shard]]:
        """What a live account answers at once."""
        account, scope = shard.account, self.scope
        if account is None or len(shard.log) >= scope.entries:
            return
        if scope.spends:
            yield "the account spends", shard.appended(SPEND)
        if scope.calls and self._is_new(shard, CALL, -1):
            yield "the call happens", shard.appended(CALL)._replace(call_known=True)
        if scope.refunds and shard.charge == 0:
            yield "the charge is refunded", shard.appended(REFUND)._replace(charge=1)

    def _is_new(self, shard: Shard, kind: int, absent: int) -> bool:
        """Whether Redis takes a key for new, from a caller who brings the mark of its absence.

        Nobody retries a call whose window has passed: that would be another one.
        """
        account = shard.account
        if account is None or kind in shard.past:
            return False
        if shard.call_known if kind == CALL else shard.grant_known:
            return False
        if account.complete or not account.fresh:
            return True
        return absent >= 0 and (absent >= account.load_mark or not self.rules.absence_compares_mark)

    # Stores

    def _stores(self, shard: Shard) -> Iterator[tuple[str, Shard]]:
        rules, account, log = self.rules, shard.account, shard.log
        if shard.mark < len(log):
            word = WORDS[log[shard.mark]]
            yield f"Postgres settles {word}", shard._replace(mark=shard.mark + 1)
        if shard.settled < shard.mark:
            yield "Redis is told the mark", shard._replace(settled=shard.mark)
        known = account is not None and account.seen <= shard.settled
        if account is not None and (known or not rules.evict_needs_settled):
            evicted = max(shard.evicted, account.seen) if rules.evict_is_noted else 0
            yield "the account is evicted", shard._replace(account=None, evicted=evicted)
        if shard.rebuilds:
            kept = log[: shard.mark]
            yield (
                f"the shard is rebuilt; {len(log) - len(kept)} entries are lost",
                shard._replace(
                    log=kept,
                    settled=shard.mark,
                    evicted=shard.mark if rules.rebuild_is_noted else 0,
                    account=None,
                    call_known=False,
                    grant_known=False,
                    charge=-1,
                    rebuilds=shard.rebuilds - 1,
                    nonce=shard.nonce + 1,
                ),
            )
        past = tuple(sorted({kind for kind in (CALL, GRANT) if kind in log} | {*shard.past}))
        if past != shard.past or (account is not None and account.fresh):
            yield (
                "the window of all keys passes",
                shard._replace(
                    past=past,
                    account=None if account is None else account._replace(fresh=False),
                    call_known=shard.call_known and CALL not in past,
                    grant_known=shard.grant_known and GRANT not in past,
                ),
            )
        if shard.charge >= 0:
            yield "the record of the charge expires", shard._replace(charge=-1)

    # Loads

    def _loader(self, shard: Shard, which: int) -> Iterator[tuple[str, Shard]]:
        loader, rules, who = shard.loaders[which], self.rules, f"loader {which + 1}"

        def put(after: Loader, there: Shard = shard) -> Shard:
            loaders = (*there.loaders[:which], after, *there.loaders[which + 1 :])
            return there._replace(loaders=loaders)

        if loader.mark < 0:
            if shard.account is None:
                yield f"{who} reads all at mark {shard.mark}", put(Loader(shard.mark, True))
                if self.scope.calls or self.scope.grants:
                    few = put(Loader(shard.mark, False))
                    yield f"{who} reads all but too many records at mark {shard.mark}", few
            return
        absent = shard.account is None or not rules.load_needs_absence
        fits = loader.mark >= shard.evicted or not rules.load_compares_evictions
        if not absent or not fits:
            yield f"{who} is refused", put(Loader())
            return
        entries = shard.log[: loader.mark]
        if loader.nonce < 0:
            brought = shard
            if loader.complete:
                brought = shard._replace(
                    call_known=shard.call_known or (CALL in entries and CALL not in shard.past),
                    grant_known=shard.grant_known or (GRANT in entries and GRANT not in shard.past),
                )
            yield f"{who} brings the records", put(loader._replace(nonce=shard.nonce), brought)
            return
        if loader.nonce != shard.nonce and rules.load_keeps_its_nonce:
            yield f"{who} is refused", put(Loader())
            return
        account = Account(
            seen=loader.mark,
            complete=loader.complete or not rules.complete_is_told,
            load_mark=loader.mark,
            fresh=True,
            grant_seq=last(entries, GRANT),
            refund_seq=last(entries, REFUND),
        )
        yield f"{who} brings the account", put(Loader(), shard._replace(account=account))

    def _asker(self, shard: Shard, which: int) -> Iterator[tuple[str, Shard]]:
        asker, account, who = shard.askers[which], shard.account, f"asker {which + 1}"
        kind = CALL if self.scope.calls else REFUND

        def put(after: Asker, there: Shard = shard) -> Shard:
            askers = (*there.askers[:which], after, *there.askers[which + 1 :])
            return there._replace(askers=askers)

        if asker.mark < 0:
            found = kind in shard.log[: shard.mark]
            what = WORDS[kind] if found else f"no trace of {WORDS[kind]}"
            yield f"{who} finds {what} at mark {shard.mark}", put(Asker(shard.mark, found))
            return
        yield f"{who} gives up", put(Asker())
        if account is None:
            return
        newer = asker.mark >= account.refund_seq or not self.rules.record_compares_refunds
        brings = asker.mark >= account.load_mark and newer
        if kind == REFUND:
            if brings and shard.charge < 0:
                there = shard._replace(charge=int(asker.found))
                yield f"{who} brings the record of the charge", put(Asker(), there)
        elif asker.found:
            if brings and not shard.call_known and CALL not in shard.past:
                there = shard._replace(call_known=True)
                yield f"{who} brings the record of the call", put(Asker(), there)
        elif len(shard.log) < self.scope.entries and self._is_new(shard, CALL, asker.mark):
            there = shard.appended(CALL)._replace(call_known=True)
            yield f"{who} makes the call, which was absent", put(Asker(), there)

    def _runner(self, shard: Shard, which: int) -> Iterator[tuple[str, Shard]]:
        mark, account, who = shard.runners[which], shard.account, f"runner {which + 1}"

        def put(after: int, there: Shard = shard) -> Shard:
            return there._replace(runners=changed(there.runners, which, after))

        if mark < 0:
            if GRANT not in shard.log[: shard.mark]:
                yield f"{who} finds no grant at mark {shard.mark}", put(shard.mark)
            return
        yield f"{who} gives up", put(-1)
        if account is None or shard.grant_known or len(shard.log) >= self.scope.entries:
            return
        absent = account.complete or not account.fresh or mark >= account.load_mark
        newer = mark >= account.grant_seq or not self.rules.grant_compares_mark
        if absent and newer:
            there = shard.appended(GRANT)._replace(grant_known=True)
            yield f"{who} applies the grant", put(-1, there)
