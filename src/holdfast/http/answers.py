"""What callers get: each answer's shape, declared once for the code and for OpenAPI.

Amounts are integers of microcredits, times RFC 3339 in UTC with milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Final, Generic, Literal, NotRequired, TypeVar

import orjson
from pydantic import Field
from typing_extensions import TypedDict

from holdfast.api_keys import ApiKey, Scope
from holdfast.lists import Entry
from holdfast.model import Account, Durability, Hold, HoldState, Member, Movement, Status

T = TypeVar("T")

JSON: Final = b"application/json"

Amount = Annotated[int, Field(description="microcredits")]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Durable = Annotated[
    Durability,
    Field(description="what this answer survives; unknown: the wait for `settled` ran out"),
]
Stale = Annotated[bool, Field(description="something due could not be expired before the answer")]


@dataclass(slots=True)
class Answer(Generic[T]):
    """An answer to a call, before it is written down. `content`, if set, is sent as it is."""

    status: int
    document: T
    replayed: bool = False
    content: bytes | None = None
    media_type: bytes = JSON

    def encode(self) -> bytes:
        return orjson.dumps(self.document) if self.content is None else self.content


@lru_cache(maxsize=4096)  # seconds: those of now, and of the deadlines in the next quarter hour
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def time_text(ms: int) -> str:
    """RFC 3339 for milliseconds since 1970."""
    return f"{_second(ms // 1000)}.{ms % 1000:03d}Z"


# ── accounts ─────────────────────────────────────────────────────────────────────────────────────


class GrantPart(TypedDict):
    """An expiring grant that still has something."""

    id: str
    remaining: Amount
    priority: int
    expires_at: Time


class LimitsAnswer(TypedDict):
    """Limits; null does not bind."""

    daily_limit: Amount | None
    monthly_limit: Amount | None
    max_hold: Amount | None
    max_open_holds: int | None
    models: list[str] | None


class AccountAnswer(TypedDict):
    """An account: available + held = granted + refunded - spent - forfeited."""

    account: str
    status: Status
    available: Amount
    held: Amount
    spent: Amount
    granted: Amount
    refunded: Amount
    forfeited: Amount
    debt: Amount
    overdraft_limit: Amount
    limits: LimitsAnswer
    low_balance: Amount | None
    plan: str | None
    metadata: dict[str, Any] | None
    used_today: Amount
    used_this_month: Amount
    open_holds: int
    grants: list[GrantPart]
    version: int
    stale: Stale
    durability: Durable


def account_answer(account: Account) -> AccountAnswer:
    """The account as GET and PUT answer it."""
    limits = account.limits
    return {
        "account": account.account,
        "status": account.status,
        "available": account.available,
        "held": account.held,
        "spent": account.spent,
        "granted": account.granted,
        "refunded": account.refunded,
        "forfeited": account.forfeited,
        "debt": account.debt,
        "overdraft_limit": account.overdraft_limit,
        "limits": {
            "daily_limit": limits.daily_limit,
            "monthly_limit": limits.monthly_limit,
            "max_hold": limits.max_hold,
            "max_open_holds": limits.max_open_holds,
            "models": limits.models,
        },
        "low_balance": account.low_balance,
        "plan": account.plan,
        "metadata": account.metadata,
        "used_today": account.used_today,
        "used_this_month": account.used_this_month,
        "open_holds": account.open_holds,
        "grants": [
            {
                "id": grant.id,
                "remaining": grant.remaining,
                "priority": grant.priority,
                "expires_at": time_text(grant.expires_ms),
            }
            for grant in account.grants
        ],
        "version": account.version,
        "stale": account.stale,
        "durability": account.durability,
    }


class MemberLimitsAnswer(TypedDict):
    """Limits; null does not bind."""

    daily_limit: Amount | None
    monthly_limit: Amount | None
    max_hold: Amount | None


class MemberAnswer(TypedDict):
    """A member: limits and usage, no funds."""

    account: str
    member: str
    limits: MemberLimitsAnswer
    used_today: Amount
    used_this_month: Amount
    stale: Stale
    durability: Durable


def member_answer(member: Member) -> MemberAnswer:
    """Limits and usage of a member."""
    return {
        "account": member.account,
        "member": member.member,
        "limits": {
            "daily_limit": member.daily_limit,
            "monthly_limit": member.monthly_limit,
            "max_hold": member.max_hold,
        },
        "used_today": member.used_today,
        "used_this_month": member.used_this_month,
        "stale": member.stale,
        "durability": member.durability,
    }


# ── holds and movements ──────────────────────────────────────────────────────────────────────────


class HoldAnswer(TypedDict):
    """A hold; available, held and version are its account's."""

    id: str
    account: str
    member: str | None
    state: HoldState
    amount: Amount
    committed: Annotated[int, Field(description="microcredits taken so far")]
    remaining: Annotated[int, Field(description="microcredits still set aside")]
    uncollected: Annotated[int, Field(description="microcredits that a capped commit did not get")]
    late: Annotated[bool, Field(description="committed after its deadline")]
    created_at: Time
    expires_at: Time
    available: Amount
    held: Amount
    version: int
    durability: Durable
    metadata: dict[str, Any] | None
    stale: Stale


def hold_answer(hold: Hold) -> HoldAnswer:
    """A hold, with the balances of its account."""
    return {
        "id": hold.id,
        "account": hold.account,
        "member": hold.member,
        "state": hold.state,
        "amount": hold.amount,
        "committed": hold.committed,
        "remaining": hold.remaining,
        "uncollected": hold.uncollected,
        "late": hold.late,
        "created_at": time_text(hold.created_ms),
        "expires_at": time_text(hold.deadline_ms),
        "available": hold.available,
        "held": hold.held,
        "version": hold.receipt.version,
        "durability": hold.durability,
        "metadata": hold.metadata,
        "stale": hold.stale,
    }


class MovementAnswer(TypedDict):
    """A charge, refund or grant; available, held and version are its account's."""

    id: str
    account: str
    amount: Amount
    created_at: Time
    available: Amount
    held: Amount
    version: int
    durability: Durable
    metadata: dict[str, Any] | None
    member: NotRequired[Annotated[str | None, Field(description="of a charge")]]
    uncollected: NotRequired[
        Annotated[int, Field(description="of a charge: microcredits that a cap left out")]
    ]
    of: NotRequired[Annotated[str, Field(description="what a refund gives back")]]
    source: NotRequired[Annotated[str | None, Field(description="of a grant")]]
    outcome: NotRequired[Annotated[Literal["applied", "replay"], Field(description="of a grant")]]


def movement_answer(movement: Movement) -> MovementAnswer:
    """A charge, grant or refund, with the balances of its account."""
    answer: MovementAnswer = {
        "id": movement.id,
        "account": movement.account,
        "amount": movement.amount,
        "created_at": time_text(movement.created_ms),
        "available": movement.available,
        "held": movement.held,
        "version": movement.receipt.version,
        "durability": movement.durability,
        "metadata": movement.metadata,
    }
    if movement.kind == "charge":
        answer["member"] = movement.member
        answer["uncollected"] = movement.uncollected
    elif movement.kind == "refund":
        answer["of"] = movement.of or ""
    elif movement.kind == "grant":
        answer["source"] = movement.source
        answer["outcome"] = "replay" if movement.replayed else "applied"
    return answer


# ── lists ────────────────────────────────────────────────────────────────────────────────────────


class EntryAnswer(TypedDict):
    """The record of one transition; available and held are the account's after it."""

    version: int
    seq: int
    type: str
    hold: str | None
    key: str | None
    member: str | None
    amount: Amount | None
    available: Amount
    held: Amount
    at: Time
    settled_at: Time
    request_id: str | None
    actor: str | None
    metadata: dict[str, Any] | None


def entry_answer(entry: Entry) -> EntryAnswer:
    """One row of the journal."""
    return {
        "version": entry.version,
        "seq": entry.seq,
        "type": entry.type,
        "hold": entry.hold,
        "key": entry.key,
        "member": entry.member,
        "amount": entry.amount,
        "available": entry.available,
        "held": entry.held,
        "at": time_text(entry.at_ms),
        "settled_at": time_text(entry.settled_ms),
        "request_id": entry.request_id,
        "actor": entry.actor,
        "metadata": entry.metadata,
    }


class ListAnswer(TypedDict, Generic[T]):
    """A page of a list."""

    data: list[T]
    next: Annotated[str | None, Field(description="`after` of the next page; null at the end")]


class Result(TypedDict):
    """What became of one call of a batch."""

    status: Annotated[int, Field(description="as the status of the same call alone")]
    body: Annotated[dict[str, Any], Field(description="as the answer to the same call alone")]
    replayed: bool


class BatchAnswer(TypedDict):
    """The results, in the order of the operations."""

    data: list[Result]


# ── API keys ─────────────────────────────────────────────────────────────────────────────────────


class ApiKeyAnswer(TypedDict):
    """An API key, without its secret."""

    id: str
    name: str
    scopes: list[Scope]
    accounts: str | None
    created_at: Time
    revoked_at: Time | None


class NewApiKeyAnswer(ApiKeyAnswer):
    """A new API key; its token is shown this once."""

    token: str


def api_key_answer(key: ApiKey) -> ApiKeyAnswer:
    """An API key, without its secret."""
    revoked = key.revoked_at
    scopes: Any = sorted(key.scopes)
    return {
        "id": key.id,
        "name": key.name,
        "scopes": scopes,
        "accounts": key.accounts,
        "created_at": time_text(round(key.created_at.timestamp() * 1000)),
        "revoked_at": None if revoked is None else time_text(round(revoked.timestamp() * 1000)),
    }
