"""A run that is falsified in every way that a bug could: what must be found, and by which name.

Each changes one thing of a story that is right (recording.py), with chains that link again, and
answers the kinds of findings that it must lead to.
"""

from __future__ import annotations

from dataclasses import replace

import orjson

from tests.faults.account import Account
from tests.faults.history import Operation
from tests.faults.recording import Story, Where

__all__ = ["AMONG_OTHERS", "EXACTLY", "answered"]


def answered(story: Story, where: Where) -> Operation:
    """The operation of a line, which was answered well."""
    operation = story.operation(where)
    assert operation.outcome == "ok"
    return operation


# ── what was asked and answered ──────────────────────────────────────────────────────────────────


def refused_with_effect(story: Story) -> set[str]:
    operation = answered(story, story.find("charge"))
    operation.outcome, operation.code = "refused", "store_unavailable"
    return {"refused_effect"}


def nobody_asked(story: Story) -> set[str]:
    story.history.operations.remove(answered(story, story.find("refund")))
    return {"stray"}


def asked_for_more(story: Story) -> set[str]:
    operation = answered(story, story.find("charge"))
    operation.amount = (operation.amount or 0) + 1
    return {"wrong_effect"}


def asked_for_another_hold(story: Story) -> set[str]:
    answered(story, story.find("release")).hold = "another"
    return {"wrong_effect"}


def asked_to_keep_the_rest(story: Story) -> set[str]:
    where = story.find("commit", lambda where: "committed" in where.entry["record"])
    answered(story, where).kind = "partial"
    return {"wrong_effect"}


def asked_for_another_time(story: Story) -> set[str]:
    answered(story, story.find("reserve")).sent["ttl_seconds"] += 1
    return {"wrong_effect"}


def answered_another_balance(story: Story) -> set[str]:
    answered(story, story.find("reserve")).answer["available"] += 1
    return {"wrong_answer"}


def answered_another_version(story: Story) -> set[str]:
    answered(story, story.find("extend")).answer["version"] -= 1
    return {"wrong_answer"}


def answered_another_amount(story: Story) -> set[str]:
    answered(story, story.find("charge")).answer["amount"] += 1
    return {"wrong_answer"}


def answered_another_state(story: Story) -> set[str]:
    answered(story, story.find("release")).answer["state"] = "held"
    return {"wrong_answer"}


def came_too_early(story: Story) -> set[str]:
    """The last entry of a shard was answered before the first one was asked.

    Where funds came with it, a denial between the two is no longer borne out either.
    """
    shard = story.shards[0]
    keyed = [Where(shard, at) for at, line in enumerate(shard.lines) if line.key is not None]
    first, last = story.operation(keyed[0]), answered(story, keyed[-1])
    last.asked_ns, last.answered_ns = first.asked_ns - 20, first.asked_ns - 10
    return {"order"}


def debt_that_nobody_took(story: Story) -> set[str]:
    models: dict[str, Account] = {}
    for where in story.places():
        model = models.setdefault(where.line.account, Account())
        assert not model.apply(where.entry)
        if model.owed:
            operation = answered(story, where)
            assert operation.sent["on_shortfall"] == "debt"
            operation.sent["on_shortfall"] = "reject"
            return {"overspend"}
    raise AssertionError("nobody took debt")


def refused_for_no_reason(story: Story) -> set[str]:
    story.history.counts["reserve", "refused", "idempotency_key_reused"] += 1
    return {"unexpected"}


def deny(story: Story, operation: Operation, code: str) -> set[str]:
    """Another operation like it was refused, after everything that happened."""
    end_ns = max(each.answered_ns or 0 for each in story.history.operations)
    denied = replace(
        operation,
        id=-1,
        key="denied",
        asked_ns=end_ns + 1,
        answered_ns=end_ns + 2,
        outcome="refused",
        code=code,
    )
    story.history.operations.append(denied)
    return {"untrue"}


def denied_though_funds_are_there(story: Story) -> set[str]:
    # A denial after everything may stem from any version since the last operation: a hold that
    # expires later gives back what was not there before.
    funds: dict[str, bool] = {}
    for where in story.places():
        name, available = where.line.account, where.line.available
        still = where.line.key is not None or funds.get(name, False)
        funds[name] = still and available is not None and available > 0
    rich = {name for name, funded in funds.items() if funded}
    where = story.find("charge", lambda where: where.line.account in rich)
    operation = answered(story, where)
    return deny(story, replace(operation, amount=1, sent={"amount": 1}), "insufficient_credits")


def denied_as_released_when_committed(story: Story) -> set[str]:
    where = story.find("commit", lambda where: "committed" in where.entry["record"])
    return deny(story, answered(story, where), "hold_released")


def denied_as_open_when_committed(story: Story) -> set[str]:
    reserves = {where.line.key for where in story.places() if where.line.type == "reserve"}
    where = story.find("refund", lambda where: story.operation(where).hold in reserves)
    return deny(story, answered(story, where), "hold_open")


# ── the journal ──────────────────────────────────────────────────────────────────────────────────


def done_twice(story: Story) -> set[str]:
    """A grant is there again at the end, with balances that are right."""
    where = story.find("grant", lambda where: (story.last(where.line.account).available or 0) > 0)
    entry, last = where.entry, story.last(where.line.account)
    available = str((last.available or 0) + int(entry["amount"]))
    rest = {name: entry[name] for name in ("type", "key", "amount", "opened", "source", "record")}
    delta = ["base", entry["amount"], "granted", entry["amount"]]
    story.append(where.line.account, **rest, delta=delta, available=available)
    return {"duplicate", "record", "tables"}


def committed_twice(story: Story) -> set[str]:
    """The same commit of a part, again, as if its key had been forgotten."""

    def partial(where: Where) -> bool:
        operation = story.operation(where)
        return operation.kind == "partial"

    where = story.find("commit", partial)
    shard, at = where
    again = where.entry
    for later, line in enumerate(shard.lines[at + 1 :], start=at + 1):
        entry = orjson.loads(line.entry)
        entry["seq"] = str(int(entry["seq"]) + 1)
        shard.lines[later] = line._replace(seq=line.seq + 1, entry=orjson.dumps(entry).decode())
    again |= {"seq": str(where.line.seq + 1), "version": str((where.line.version or 0) + 1)}
    shard.lines.insert(at + 1, where.line)
    story.put(Where(shard, at + 1), again)
    return {"duplicate", "version"}


def lost_at_the_end(story: Story) -> set[str]:
    """The end of a shard is gone, and with it the last effect that was acknowledged."""
    shard = story.shards[0]
    keyed = (at for at, line in reversed([*enumerate(shard.lines)]) if line.key is not None)
    del shard.lines[next(keyed) :]
    story.link(shard)
    return {"lost", "unsettled", "tables"}


def lost_in_the_middle(story: Story) -> set[str]:
    shard, at = story.find("charge")
    del shard.lines[at]
    return {"lost", "gap", "chain", "version"}


def number_twice(story: Story) -> set[str]:
    shard, at = story.find("charge")
    shard.lines.insert(at, shard.lines[at])
    story.link(shard)
    return {"gap", "duplicate", "version"}


def swapped(story: Story) -> set[str]:
    """Two entries of a shard, of different accounts, have changed places."""
    shard = story.shards[0]
    at = next(
        at
        for at in range(100, len(shard.lines))
        if shard.lines[at].account != shard.lines[at + 1].account
    )
    lines = shard.lines
    lines[at], lines[at + 1] = lines[at + 1], lines[at]
    story.link(shard)
    return {"gap"}


def another_chain(story: Story) -> set[str]:
    shard, at = story.find("commit")
    chain = shard.lines[at].chain
    shard.lines[at] = shard.lines[at]._replace(chain=chain[::-1])
    return {"chain"}


def another_text(story: Story) -> set[str]:
    """The entry was altered behind the chain, where nothing but the chain tells."""
    shard, at = story.find("commit")
    line = shard.lines[at]
    shard.lines[at] = line._replace(entry=line.entry.replace('"context"', ' "context"'))
    return {"chain"}


def another_mark(story: Story) -> set[str]:
    story.shards[1].mark += 1
    return {"gap"}


def wrong_balance(story: Story) -> set[str]:
    where = story.find("charge")
    story.rewrite(where, available=str(int(where.entry["available"]) + 1))
    return {"balance"}


def half_an_effect(story: Story) -> set[str]:
    """A charge that was counted as spent, and never left the account."""
    where = story.find("charge", lambda where: "base" in where.entry["delta"])
    delta = where.entry["delta"]
    at = delta.index("base")
    story.rewrite(where, delta=delta[:at] + delta[at + 2 :])
    return {"balance"}


def wrong_record(story: Story) -> set[str]:
    where = story.find("commit")
    record = where.entry["record"]
    at = record.index("committed") + 1
    record[at] = str(int(record[at]) + 1)
    story.rewrite(where, record=record)
    return {"record"}


def deadline_moves_back(story: Story) -> set[str]:
    where = story.find("extend", lambda where: "ttl_seconds" in story.operation(where).sent)
    record = where.entry["record"]
    at = record.index("deadline") + 1
    record[at] = str(int(record[at]) - 3_600_000)
    story.rewrite(where, record=record)
    return {"record", "wrong_effect"}


def committed_too_late(story: Story) -> set[str]:
    """A hold is committed an hour after its deadline, and nobody calls it late."""
    where = story.find("commit", lambda where: "late" not in where.entry)
    story.rewrite(where, at=str(int(where.entry["at"]) + 3_600_000))
    return {"record"}


def overspent(story: Story) -> set[str]:
    """A reserve of one more than there was."""
    account = story.shards[0].accounts[0].account
    last, row = story.last(account), story.shards[0].accounts[0]
    room = (last.available or 0) + row.overdraft_limit
    at = int(orjson.loads(story.shards[0].lines[-1].entry)["at"])
    story.append(
        account,
        type="reserve",
        key="greedy",
        amount=str(room + 1),
        record=["kind", "hold", "deadline", str(at + 1_000)],
        held=str((last.held or 0) + room + 1),
        available=str(-row.overdraft_limit - 1),
    )
    return {"overspend", "stray", "tables"}


def rejected(story: Story) -> set[str]:
    shard, at = story.find("charge")
    shard.lines[at] = shard.lines[at]._replace(quarantined=True)
    return {"quarantined"}


def unreadable(story: Story) -> set[str]:
    shard, at = story.find("charge")
    shard.lines[at] = shard.lines[at]._replace(entry="{")
    story.link(shard)
    return {"unreadable"}


def another_column(story: Story) -> set[str]:
    shard, at = story.find("charge")
    shard.lines[at] = shard.lines[at]._replace(amount=1_000_000)
    return {"columns"}


def expired_early(story: Story) -> set[str]:
    where = story.find("expire")
    shard, at = where
    shard.lines[at] = where.line._replace(settled_ms=int(where.entry["at"]) - 3_600_000)
    return {"early"}


# ── the tables, and what the service answers ─────────────────────────────────────────────────────


def half_settled(story: Story) -> set[str]:
    """The journal has an entry that the account's row has not."""
    shard = story.shards[0]
    row = shard.accounts[0]
    shard.accounts[0] = row._replace(spent=row.spent - 1)
    return {"tables"}


def no_account(story: Story) -> set[str]:
    del story.shards[0].accounts[0]
    return {"tables"}


def another_record(story: Story) -> set[str]:
    shard = story.shards[0]
    at = next(at for at, row in enumerate(shard.records) if row.kind == "hold")
    shard.records[at] = shard.records[at]._replace(remaining=1)
    return {"tables"}


def no_record(story: Story) -> set[str]:
    del story.shards[0].records[0]
    return {"tables"}


def redis_has_half(story: Story) -> set[str]:
    """Redis has the balance of an entry, and not its counter."""
    next(iter(story.finals.values()))["spent"] -= 1
    return {"final"}


def redis_has_another_hold(story: Story) -> set[str]:
    next(iter(story.finals.values()))["open_holds"] += 1
    return {"final"}


def redis_is_ahead(story: Story) -> set[str]:
    next(iter(story.finals.values()))["version"] += 1
    return {"unsettled"}


EXACTLY = (
    *(refused_with_effect, nobody_asked, asked_for_more, asked_for_another_hold),
    *(asked_to_keep_the_rest, asked_for_another_time, answered_another_balance),
    *(answered_another_version, answered_another_amount, answered_another_state),
    *(debt_that_nobody_took, refused_for_no_reason, denied_though_funds_are_there),
    *(denied_as_released_when_committed, denied_as_open_when_committed),
    *(another_chain, another_text, another_mark),
    *(another_column, expired_early, half_settled, no_account, another_record, no_record),
    *(redis_has_half, redis_has_another_hold, redis_is_ahead, lost_at_the_end),
)
"""What is found, and nothing else."""

AMONG_OTHERS = (
    *(done_twice, committed_twice, lost_in_the_middle, number_twice, wrong_balance),
    *(half_an_effect, wrong_record, deadline_moves_back, committed_too_late, overspent, rejected),
    *(unreadable, swapped, came_too_early),
)
"""What is found beside what follows from it."""
