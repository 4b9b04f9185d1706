"""What the service answers, as frozen dataclasses.

Amounts and balances are integers in microcredits (1 credit = 1,000,000), times are aware
datetimes in UTC. A field that a newer service adds is kept in `raw`, never refused.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, Generic, TypeVar

__all__ = [
    "Account",
    "Answer",
    "Debt",
    "Entry",
    "Forecast",
    "Hold",
    "Member",
    "Page",
    "Posting",
    "Uncollected",
    "Usage",
]

T = TypeVar("T")
R = TypeVar("R", bound="Record")


@dataclass(frozen=True, kw_only=True)
class Record:
    """Something the service answered, and the answer as it came."""

    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def read(cls: type[R], document: Mapping[str, Any], **known: Any) -> R:
        """Take from `document` the fields this class has. Raises ValueError on a bad document."""
        kind: Any = cls
        values: dict[str, Any] = {}
        for name, is_time in _fields(kind):
            value = document.get(name)
            if value is None:
                continue
            if is_time:
                value = datetime.fromisoformat(value)
            elif isinstance(value, list):
                value = tuple(value)
            values[name] = value
        try:
            return cls(raw=document, **(values | known))
        except TypeError as error:
            raise ValueError(f"the answer lacks a field: {error}") from error


@cache
def _fields(cls: type[Any]) -> tuple[tuple[str, bool], ...]:
    """Name of each field that comes from the document, and whether it is a time."""
    hints = typing.get_type_hints(cls)
    own = {each.name for each in dataclasses.fields(Answer)} if issubclass(cls, Answer) else {"raw"}
    return tuple(
        (each.name, _is_time(hints[each.name]))
        for each in dataclasses.fields(cls)
        if each.name not in own
    )


def _is_time(hint: Any) -> bool:
    return hint is datetime or (
        isinstance(hint, types.UnionType) and datetime in typing.get_args(hint)
    )


@dataclass(frozen=True, kw_only=True)
class Answer(Record):
    """How the call itself went.

    `key` is the Idempotency-Key that was sent (made by the client if the caller gave none),
    `replayed` says that an earlier call with this key did the work, `created` that this one made
    something new (201), `request_id` is what to quote to whoever runs the service.
    """

    key: str | None = None
    replayed: bool = False
    created: bool = False
    request_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Account(Answer):
    """An owner of credits. `available + held = granted + refunded - spent - forfeited`.

    `stale` says that the figures are as stored, because what is due could not be expired now.
    """

    account: str
    status: str = "active"
    available: int = 0
    held: int = 0
    spent: int = 0
    granted: int = 0
    refunded: int = 0
    forfeited: int = 0
    debt: int = 0
    overdraft_limit: int = 0
    limits: Mapping[str, Any] = field(default_factory=dict)
    used_today: int = 0
    used_this_month: int = 0
    grants: tuple[Mapping[str, Any], ...] = ()
    open_holds: int = 0
    low_balance: int | None = None
    plan: str | None = None
    metadata: Mapping[str, Any] | None = None
    version: int = 0
    stale: bool = False
    durability: str | None = None


@dataclass(frozen=True, kw_only=True)
class Member(Answer):
    """A person or key that spends from an account: limits and usage, no funds."""

    member: str
    account: str | None = None
    limits: Mapping[str, Any] = field(default_factory=dict)
    used_today: int = 0
    used_this_month: int = 0
    stale: bool = False
    durability: str | None = None


@dataclass(frozen=True, kw_only=True)
class Hold(Answer):
    """Credits set aside for one piece of work. Its `id` is the Idempotency-Key it was made with.

    `state` is `held`, `committed`, `released` or `expired`; `committed` what was taken so far,
    `remaining` what is still set aside, `uncollected` what a capped commit could not take, `late`
    that it was committed after its deadline. `available` and `held` are the account's.
    """

    id: str
    account: str
    state: str
    amount: int
    member: str | None = None
    committed: int = 0
    remaining: int = 0
    uncollected: int = 0
    late: bool = False
    created_at: datetime | None = None
    expires_at: datetime | None = None
    available: int | None = None
    held: int | None = None
    version: int | None = None
    durability: str | None = None
    metadata: Mapping[str, Any] | None = None
    stale: bool = False


@dataclass(frozen=True, kw_only=True)
class Posting(Answer):
    """A charge, refund or grant. Its `id` is the key it was made with.

    `outcome` (of a grant that is a purchase) is `applied` or `replay`, `of` the hold or charge
    that a refund gives back, `uncollected` what a capped charge could not take.
    """

    id: str
    account: str
    amount: int
    member: str | None = None
    source: str | None = None
    outcome: str | None = None
    of: str | None = None
    uncollected: int = 0
    created_at: datetime | None = None
    available: int | None = None
    held: int | None = None
    version: int | None = None
    durability: str | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Entry(Record):
    """The record of one transition. `version` counts an account's entries 1, 2, 3, ...

    `available` and `held` are the account's after the change; `settled_at` is when the journal
    took it.
    """

    version: int
    seq: int
    type: str
    amount: int = 0
    available: int = 0
    held: int = 0
    hold: str | None = None
    key: str | None = None
    member: str | None = None
    at: datetime | None = None
    settled_at: datetime | None = None
    request_id: str | None = None
    actor: str | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Usage(Record):
    """What one day, member or model used, in microcredits; those that were grouped by are set.

    `used` is what limits count, open holds included, on the day on which the hold was made; `spent`
    what was taken for good, on the day on which it was; `calls` counts holds and charges.
    """

    used: int = 0
    spent: int = 0
    calls: int = 0
    day: str | None = None
    member: str | None = None
    model: str | None = None


@dataclass(frozen=True, kw_only=True)
class Debt(Record):
    """An account that owes `debt` microcredits."""

    account: str
    status: str
    debt: int
    available: int = 0
    held: int = 0


@dataclass(frozen=True, kw_only=True)
class Uncollected(Record):
    """A hold or charge (`of`) that took less than its work cost, in microcredits.

    `uncollected` is what it could not take, `collected` what of that was taken since.
    """

    account: str
    of: str
    kind: str
    uncollected: int
    collected: int = 0
    member: str | None = None
    at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Forecast(Answer):
    """How fast an account spends, in microcredits a day, and when it has run out at that rate.

    The rate is the average of the last `basis_days`. `runs_out_at` is None where nothing is spent,
    or not within a century. `balance_level` is `ok`, `low`, `critical` or `empty`, None for an
    account without `low_balance`.
    """

    account: str
    available: int
    burn_per_day: int
    basis_days: float
    runs_out_at: datetime | None = None
    balance_level: str | None = None


@dataclass(frozen=True)
class Page(Generic[T]):
    """A piece of a list. `next` is the cursor to ask for the rest with, None at the end."""

    data: tuple[T, ...]
    next: str | None = None
