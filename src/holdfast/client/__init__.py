"""The Python client of holdfast.

    from holdfast.client import AsyncClient, InsufficientCredits

    client = AsyncClient("http://127.0.0.1:8080", api_key)

    async def answer(account: str, prompt: str) -> str:
        async with client.hold(account, estimate(prompt)) as hold:
            completion = await model(prompt)
            hold.commit(cost(completion))
            return completion.text

`Client` is the same without asyncio. Amounts are integers in microcredits. The errors are drawn as
a tree in `holdfast.client.errors`. It needs httpx2 and nothing of the server.
"""

from holdfast.client import calls, errors
from holdfast.client.aio import AsyncClient
from holdfast.client.backoff import Backoff
from holdfast.client.batch import MAX_BATCH, BatchResult
from holdfast.client.blocking import Client
from holdfast.client.call import Call, Durability, OnShortfall, new_key
from holdfast.client.calls import AccountSettings, GrantSource, MemberSettings
from holdfast.client.errors import (
    AccountClosed,
    AccountFrozen,
    AccountNotEmpty,
    AccountNotFound,
    AmountLimit,
    BadRequest,
    BodyTooLarge,
    CommitExceedsFunds,
    Conflict,
    ConnectionLost,
    Forbidden,
    HoldCommitted,
    HoldExpired,
    HoldfastError,
    HoldNotFound,
    HoldOpen,
    HoldReleased,
    IdempotencyKeyReused,
    InsufficientCredits,
    Invalid,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    PaymentDuplicate,
    PaymentRequired,
    PriceAnomaly,
    PriceUnknown,
    RateLimited,
    RefundExceeds,
    StoreUnavailable,
    Unauthenticated,
    Unavailable,
    UnexpectedAnswer,
)
from holdfast.client.openhold import AsyncOpenHold, OpenHold
from holdfast.client.results import (
    Account,
    Answer,
    Debt,
    Entry,
    Forecast,
    Hold,
    Member,
    Page,
    Posting,
    Uncollected,
    Usage,
)

__all__ = [
    "MAX_BATCH",
    "Account",
    "AccountClosed",
    "AccountFrozen",
    "AccountNotEmpty",
    "AccountNotFound",
    "AccountSettings",
    "AmountLimit",
    "Answer",
    "AsyncClient",
    "AsyncOpenHold",
    "Backoff",
    "BadRequest",
    "BatchResult",
    "BodyTooLarge",
    "Call",
    "Client",
    "CommitExceedsFunds",
    "Conflict",
    "ConnectionLost",
    "Debt",
    "Durability",
    "Entry",
    "Forbidden",
    "Forecast",
    "GrantSource",
    "Hold",
    "HoldCommitted",
    "HoldExpired",
    "HoldNotFound",
    "HoldOpen",
    "HoldReleased",
    "HoldfastError",
    "IdempotencyKeyReused",
    "InsufficientCredits",
    "Invalid",
    "InvalidRequest",
    "LimitExceeded",
    "Member",
    "MemberSettings",
    "NotFound",
    "OnShortfall",
    "OpenHold",
    "OutcomeUnknown",
    "Overloaded",
    "Page",
    "PaymentDuplicate",
    "PaymentRequired",
    "Posting",
    "PriceAnomaly",
    "PriceUnknown",
    "RateLimited",
    "RefundExceeds",
    "StoreUnavailable",
    "Unauthenticated",
    "Unavailable",
    "Uncollected",
    "UnexpectedAnswer",
    "Usage",
    "calls",
    "errors",
    "new_key",
]
