"""One call as a value, and the parts that calls are built from."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from holdfast.client.results import Hold, Page, Record

__all__ = [
    "DEFAULT_TTL_SECONDS",
    "Call",
    "Durability",
    "OnShortfall",
    "Reader",
    "account_path",
    "checked_id",
    "get",
    "given",
    "hold_path",
    "keyed",
    "new_key",
    "of_hold",
    "page_of",
    "query_of",
]

T = TypeVar("T")
R = TypeVar("R", bound=Record)

DEFAULT_TTL_SECONDS = 900
"""How long a hold lives, in seconds, where the call does not say."""

Durability = Literal["memory", "local", "settled"]
OnShortfall = Literal["reject", "cap", "debt"]
Reader = Callable[..., T]

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


@dataclass(frozen=True, kw_only=True)
class Call(Generic[T]):
    """One call: `read` makes the typed result from the answer's document."""

    op: str
    method: str
    path: str
    read: Reader[T]
    account: str | None = None
    hold: str | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    key: str | None = None
    durability: Durability | None = None


def new_key() -> str:
    """A fresh Idempotency-Key: 128 random bits."""
    return secrets.token_hex(16)


def checked_id(what: str, value: str) -> str:
    """`value`, if it may stand in a path and a header; ValueError if not.

    Checked here because a slash, or a `..` that a URL library resolves, would address something
    else than the caller meant.
    """
    if not _ID.fullmatch(value) or value in {".", ".."}:
        raise ValueError(
            f"{what} {value!r} is not an id: 1 to 128 of A-Z a-z 0-9 _ . : - (not '.' or '..')"
        )
    return value


def account_path(account: str) -> str:
    """Path of an account. Raises ValueError for what is not an id."""
    return f"/v1/accounts/{checked_id('account', account)}"


def hold_path(account: str, hold: str) -> str:
    """Path of a hold. Raises ValueError for what is not an id."""
    return f"{account_path(account)}/holds/{checked_id('hold', hold)}"


def given(**fields: Any) -> dict[str, Any]:
    """A body of the fields that the caller gave."""
    return {name: value for name, value in fields.items() if value is not None}


def query_of(**fields: str | int | None) -> dict[str, str]:
    """A query of the fields that the caller gave."""
    return {name: str(value) for name, value in fields.items() if value is not None}


def page_of(kind: type[R]) -> Reader[Page[R]]:
    """The reader of a list of `kind`."""

    def read(document: Mapping[str, Any], **_: Any) -> Page[R]:
        data: Iterable[Mapping[str, Any]] = document["data"]
        return Page(tuple(kind.read(each) for each in data), document.get("next"))

    return read


def get(op: str, path: str, read: Reader[T], query: Mapping[str, str] | None = None) -> Call[T]:
    """A call that only reads."""
    return Call(op=op, method="GET", path=path, read=read, query=query or {})


def keyed(
    op: str,
    account: str,
    collection: str,
    body: Mapping[str, Any],
    *,
    key: str | None,
    durability: Durability | None,
    read: Reader[T],
) -> Call[T]:
    """A call that makes something of an account under a key; a key is made if there is none."""
    return Call(
        op=op,
        method="POST",
        path=f"{account_path(account)}/{collection}",
        account=account,
        body=body,
        key=checked_id("key", key) if key is not None else new_key(),
        durability=durability,
        read=read,
    )


def of_hold(
    op: str,
    account: str,
    hold: str,
    body: Mapping[str, Any],
    *,
    key: str | None,
    durability: Durability | None,
) -> Call[Hold]:
    """A call that changes a hold."""
    return Call(
        op=op,
        method="POST",
        path=f"{hold_path(account, hold)}/{op}",
        account=account,
        hold=hold,
        body=body,
        key=None if key is None else checked_id("key", key),
        durability=durability,
        read=Hold.read,
    )
