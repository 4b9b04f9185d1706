"""From what a script answered to what the ledger answers: results, and refusals as typed errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from holdfast.codes import LIMITS, Code
from holdfast.errors import (
    AmountLimit,
    CommitExceedsFunds,
    Conflict,
    HoldfastError,
    InsufficientCredits,
    InvalidRequest,
    KeyReused,
    LimitExceeded,
    OverloadedError,
    RefundExceeds,
    StoreUnavailable,
    UnknownOutcome,
)
from holdfast.keys import FINGERPRINTED
from holdfast.model import Account, Grant, Hold, Limits, Member, Movement, Receipt
from holdfast.wire import OutcomeUnknown, Overloaded, RedisUnavailable, ServerError, WireError


def hold(shard: int, account: str, key: str, reply: list[Any]) -> Hold:
    """A `hold` answer (lua/README.md), its code included."""
    code, state, amount, committed, remaining, uncollected, late, *rest = reply
    made, deadline, available, held, version, seq, chain, member, metadata = rest
    return Hold(
        key,
        account,
        member.decode() or None,
        state.decode(),
        amount,
        committed,
        remaining,
        uncollected,
        late == 1,
        made,
        deadline,
        available,
        held,
        orjson.loads(metadata) if metadata else None,
        code == Code.REPLAY,
        Receipt(shard, seq, chain.decode(), version),
    )


def movement(shard: int, account: str, key: str, kind: Any, reply: list[Any]) -> Movement:
    """A `movement` answer, its code included."""
    return Movement(
        kind=kind,
        id=key,
        account=account,
        amount=reply[1],
        uncollected=reply[2],
        created_ms=reply[3],
        available=reply[4],
        held=reply[5],
        of=reply[9].decode() or None,
        member=reply[11].decode() or None,
        source=reply[12].decode() or None,
        metadata=orjson.loads(reply[10]) if reply[10] else None,
        replayed=reply[0] == Code.REPLAY,
        receipt=Receipt(shard, reply[7], reply[8].decode(), reply[6]),
    )


def _fields(flat: list[bytes]) -> dict[str, str]:
    return {
        name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)
    }


def _optional(fields: dict[str, str], name: str) -> int | None:
    return int(fields[name]) if name in fields else None


def account(name: str, flat: list[bytes], open_holds: int, used: tuple[int, int]) -> Account:
    """An account out of its hash, flat as HGETALL gives it."""
    fields = _fields(flat)

    def number(field: str) -> int:
        return int(fields.get(field, "0"))

    grants = []
    for field, value in fields.items():
        if field.startswith("g:"):
            expires, priority, remaining = value.split()
            grants.append(Grant(field[2:], int(remaining), int(priority), int(expires)))
    return Account(
        account=name,
        status=fields["status"],  # type: ignore[arg-type]  # the scripts write no other
        available=number("available"),
        held=number("held"),
        spent=number("spent"),
        granted=number("granted"),
        refunded=number("refunded"),
        forfeited=number("forfeited"),
        debt=number("debt"),
        overdraft_limit=number("overdraft_limit"),
        limits=Limits(
            daily_limit=_optional(fields, "daily_limit"),
            monthly_limit=_optional(fields, "monthly_limit"),
            max_hold=_optional(fields, "max_hold"),
            max_open_holds=_optional(fields, "max_open_holds"),
            models=fields["models"].split(" ") if "models" in fields else None,
        ),
        low_balance=_optional(fields, "low_balance"),
        plan=fields.get("plan"),
        metadata=orjson.loads(fields["metadata"]) if "metadata" in fields else None,
        used_today=used[0],
        used_this_month=used[1],
        open_holds=open_holds,
        version=number("version"),
        grants=sorted(grants, key=lambda g: (g.expires_ms, g.priority, g.id)),
    )


def member(account: str, name: str, limits: bytes | None, used: tuple[int, int]) -> Member:
    """A member's limits text ("daily monthly max_hold", `-` for none) and use."""
    words = (limits or b"- - -").decode().split()
    daily, monthly, max_hold = (None if word == "-" else int(word) for word in words)
    return Member(account, name, daily, monthly, max_hold, used[0], used[1])


_CREDIT = 1_000_000


def _credits(amount: int) -> str:
    """Rounded to 0.01 credit: what a message may show to anybody."""
    return f"{amount / _CREDIT:.2f} credits"


def _reused(kind: str, detail: list[Any]) -> HoldfastError:
    fields = FINGERPRINTED["hold" if kind == "reserve" else kind]
    field = fields[detail[0] - 1] if detail[0] else "kind"
    return KeyReused(
        f"this key was used before with another {field}; "
        "repeat the first request unchanged, or use a new key",
        errors=[{"field": field, "message": "differs from the first request with this key"}],
        field=field,
    )


def _malformed(kind: str, detail: list[Any]) -> HoldfastError:
    if kind == "grant" and detail[0] == 5:  # by Redis's clock, which only the script reads
        return InvalidRequest.of_field("expires_at", "is not in the future")
    return InvalidRequest(f"the {kind} was refused as malformed (argument {detail[0]})")


def _limit(kind: str, detail: list[Any]) -> HoldfastError:
    name = LIMITS[detail[0]]
    return LimitExceeded(f"{name} does not allow this {kind}", limit=name)


def _store(store: str, why: str) -> Callable[[str, list[Any]], HoldfastError]:
    return lambda _kind, _detail: StoreUnavailable(store, why)


def _conflict(code: str, why: str) -> Callable[[str, list[Any]], HoldfastError]:
    return lambda _kind, _detail: Conflict(why, code)


# Every code that ends a call without an answer, once. What is missing here (MISS, MISS_KEY,
# MISS_RECORD, DUE, STALE, EXISTS, FENCED) asks the ledger for a step and is never shown.
REFUSALS: dict[Code, Callable[[str, list[Any]], HoldfastError]] = {
    Code.MALFORMED: _malformed,
    Code.NO_FINISH: _store("lease", "no settlement worker vouches for Redis now"),
    Code.CLOCK: _store("clock", "the clock of Redis is behind what it has been"),
    Code.FULL: _store("backlog", "too many entries wait for Postgres"),
    Code.REUSED: _reused,
    Code.NO_NEW: _store("lease", "new spending is closed: no settlement worker vouches for it now"),
    Code.BACKLOG: _store("backlog", "new spending is closed: too many entries wait for Postgres"),
    Code.FROZEN: _conflict("account_frozen", "the account is frozen"),
    Code.CLOSED: _conflict("account_closed", "the account is closed"),
    Code.HOLD_COMMITTED: _conflict("hold_committed", "the hold is committed"),
    Code.HOLD_RELEASED: _conflict("hold_released", "the hold is released"),
    Code.HOLD_EXPIRED: _conflict("hold_expired", "the hold has expired"),
    Code.HOLD_OPEN: _conflict("hold_open", "the hold is still open: commit or release it first"),
    Code.KEYS_FULL: lambda _kind, _detail: InvalidRequest.of_field(
        "Idempotency-Key", "a hold takes at most 64 calls with a key; commit or release it"
    ),
    Code.LIMIT: _limit,
    Code.AMOUNT_LIMIT: lambda kind, _detail: AmountLimit(
        f"this {kind} would take an amount past 9,000,000,000,000,000 microcredits",
        errors=[{"field": "amount", "message": "the balance would leave the exact range"}],
    ),
    Code.REFUND_EXCEEDS: lambda _kind, detail: RefundExceeds(
        f"at most {detail[0]} microcredits of it can still be refunded",
        errors=[{"field": "amount", "message": f"at most {detail[0]}"}],
    ),
    Code.FUNDS: lambda kind, detail: InsufficientCredits(
        f"not enough credits for this {kind}: {_credits(detail[0])} available",
        available=detail[0],
    ),
    Code.COMMIT_FUNDS: lambda _kind, detail: CommitExceedsFunds(
        f"the commit is {_credits(detail[1])} more than the hold and what is available; "
        "the hold is unchanged (on_shortfall: cap or debt would take it)",
        available=detail[0],
        short=detail[1],
    ),
    Code.NOT_ZERO: lambda _kind, detail: InvalidRequest.of_field(
        detail[0].decode(),
        "an account closes only with nothing available, held or owed, and no hold open"
        if detail[0] == b"status"
        else "is less than the overdraft in use",
    ),
    Code.BUSY: _store("redis", "the account is in use"),
}


def refusal(kind: str, code: Code, detail: list[Any]) -> HoldfastError:
    """The error that a refusing code stands for. Raises KeyError for one that asks for a step."""
    return REFUSALS[code](kind, detail)


def unreachable(error: WireError) -> HoldfastError:
    """What a failure below the scripts means to the caller."""
    if isinstance(error, OutcomeUnknown):
        return UnknownOutcome("Redis did not answer in time; repeat the call with the same key")
    if isinstance(error, Overloaded):
        return OverloadedError("too many calls are waiting for Redis")
    if isinstance(error, RedisUnavailable):
        return StoreUnavailable("redis", "Redis cannot be reached")
    if isinstance(error, ServerError) and error.code == "OOM":
        return StoreUnavailable("redis", "Redis is out of memory")
    if isinstance(error, ServerError):
        # Scripts fail only before their first write; the rest are refusals to run at all.
        return StoreUnavailable("redis", f"Redis refused the call ({error.code})")
    return StoreUnavailable("redis", "the connection to Redis failed")
