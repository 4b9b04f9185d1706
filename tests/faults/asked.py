"""What an operation asked for, beside what it did and what it was told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.faults.account import Account, Entry, Record
from tests.faults.history import Operation

__all__ = ["answered", "named", "unexpected", "unlike", "value_of"]

_OF_HOLD = ("state", "amount", "committed", "remaining", "uncollected", "late")
_OF_MOVEMENT = ("amount", "uncollected")

# What a load can be refused with, by codes of docs/api.md and its own (load.py).
_EXPECTED = frozenset(
    (
        *("", "insufficient_credits", "commit_exceeds_funds", "refund_exceeds"),
        *("hold_committed", "hold_released", "hold_expired", "hold_open"),
        *("store_unavailable", "overloaded", "outcome_unknown", "not_sent", "lost"),
    )
)
# Where what was acknowledged may be gone.
_OF_WHAT_IS_GONE = frozenset({"account_not_found", "hold_not_found"})


def named(operation: Operation) -> str:
    """An operation, for people."""
    return f"{operation.kind} {operation.key} of {operation.account}"


def value_of(flat: Sequence[str], name: str) -> str:
    """A value out of names and values in turn; '' where there is none."""
    return next((flat[at + 1] for at in range(0, len(flat), 2) if flat[at] == name), "")


def unexpected(kind: str, code: str, *, allow_lost: bool) -> bool:
    """Whether nothing in a load calls for this refusal of a kind of operation."""
    if code in _EXPECTED or (allow_lost and code in _OF_WHAT_IS_GONE):
        return False
    # A grant that expires in seconds may have expired when it came.
    return not (kind == "grant" and code == "invalid_request")


def answered(operation: Operation, account: Account) -> Iterator[str]:
    """How the answer differs from the hold or the movement as the effect left it."""
    of_hold = operation.kind not in ("grant", "charge", "refund")
    key = operation.hold if of_hold else operation.key
    record = account.records.get(key or "")
    if record is None:
        return
    for name in _OF_HOLD if of_hold else _OF_MOVEMENT:
        said = operation.answer.get(name)
        if said is not None and said != (has := getattr(record, name)):
            yield f"{named(operation)} was answered {name} {said}, the model has {has}"


def unlike(operation: Operation, entry: Entry, account: Account) -> Iterator[str]:
    """How an effect differs from what was asked for. `account` is as the effect left it."""
    kind, sent = operation.kind, operation.sent
    type_ = "commit" if kind == "partial" else kind
    if entry["type"] != type_ or entry["account"] != operation.account:
        yield f"it did a {entry['type']} of {entry['account']}"
        return
    subject = entry.get("hold") or entry.get("of") or (entry["key"] if kind == "reserve" else None)
    if subject != operation.hold:
        yield f"it did it to {subject}, not to {operation.hold}"
        return
    uncollected = int(entry.get("uncollected", 0))
    if uncollected and sent.get("on_shortfall") != "cap":
        yield f"{uncollected} were left out, it asked for no cap"
    record = account.records.get(operation.hold or operation.key)
    if record is None:
        return
    yield from _deadline(operation, entry, record)
    if kind in ("commit", "partial") and (record.state == "committed") != (kind == "commit"):
        yield f"the hold is {record.state}"
    amount, asked = int(entry["amount"]), _amount(operation, entry, record, account)
    if amount + uncollected != asked:
        yield f"its amount is {amount} and {uncollected} uncollected, it asked for {asked}"


def _deadline(operation: Operation, entry: Entry, record: Record) -> Iterator[str]:
    if (ttl_s := operation.sent.get("ttl_seconds")) is None:
        return
    wanted = int(entry["at"]) + ttl_s * 1000
    moved = operation.kind == "extend"  # to the later of the two
    if record.deadline < wanted or (record.deadline > wanted and not moved):
        yield f"its deadline is {record.deadline}, not {wanted}"


def _amount(operation: Operation, entry: Entry, record: Record, account: Account) -> int:
    """What an effect should have moved, with what it left out."""
    amount, asked = int(entry["amount"]), operation.amount
    match operation.kind:
        case "extend":
            return asked or 0
        case "release":
            return amount  # all that is left, which the model knows
        case "reserve":
            whole = asked or 0
            least = operation.sent.get("min_amount", whole)
            # Less will do, but not less than there was: nothing may be left then.
            return amount if least <= amount < whole and account.room == 0 else whole
        case "commit" | "partial" if asked is None and record.late:
            # Partial commits may have taken more than the hold was made for: nothing is left then.
            return max(record.amount - (record.committed - amount), 0)
        case "commit" | "partial" if asked is None:
            # All that was set aside, so that nothing came back.
            return -int(value_of(entry.get("delta", ()), "held") or 0)
        case "refund" if asked is None:
            return amount if record.refunded == record.committed else -1
    return asked or 0
