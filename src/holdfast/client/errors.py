"""What can go wrong when holdfast is called, as one tree.

    HoldfastError
    ├── BadRequest              400  the request's form: key missing or invalid, JSON broken
    ├── Unauthenticated         401
    ├── Forbidden               403
    ├── PaymentRequired         402  money says no; nothing was changed
    │   ├── InsufficientCredits
    │   ├── LimitExceeded
    │   └── CommitExceedsFunds
    ├── NotFound                404
    │   ├── AccountNotFound
    │   └── HoldNotFound
    ├── Conflict                409  the state of the hold or account forbids it
    │   ├── HoldCommitted, HoldReleased, HoldExpired, HoldOpen
    │   ├── AccountFrozen, AccountClosed, AccountNotEmpty
    │   └── PaymentDuplicate
    ├── BodyTooLarge            413
    ├── Invalid                 422  the request's content
    │   ├── InvalidRequest, AmountLimit, RefundExceeds
    │   ├── IdempotencyKeyReused
    │   └── PriceUnknown, PriceAnomaly
    ├── RateLimited             429
    ├── Unavailable             503  refused for now, nothing was changed
    │   ├── StoreUnavailable
    │   └── Overloaded
    ├── OutcomeUnknown     500, 503  it may or may not have happened: repeat with the same key
    │   └── ConnectionLost           no answer came at all
    └── UnexpectedAnswer             not an answer of this contract (a proxy's page, say)

`code` is the word to switch on; an answer with a code or a status that this release does not
know still arrives as the nearest ancestor, with `code` as sent.
"""

from __future__ import annotations

import email.utils
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = [
    "AccountClosed",
    "AccountFrozen",
    "AccountNotEmpty",
    "AccountNotFound",
    "AmountLimit",
    "BadRequest",
    "BodyTooLarge",
    "CommitExceedsFunds",
    "Conflict",
    "ConnectionLost",
    "Forbidden",
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
    "NotFound",
    "OutcomeUnknown",
    "Overloaded",
    "PaymentDuplicate",
    "PaymentRequired",
    "PriceAnomaly",
    "PriceUnknown",
    "RateLimited",
    "RefundExceeds",
    "StoreUnavailable",
    "Unauthenticated",
    "Unavailable",
    "UnexpectedAnswer",
    "error_from_answer",
]


class HoldfastError(Exception):
    """A call that did not succeed.

    `code` is the contract's word for the reason, `status` the HTTP status (None where no answer
    came), `retryable` whether the same call with the same key may succeed later, `request_id`
    what to quote to whoever runs the service, `detail` the sentence for people, `key` the
    Idempotency-Key the call went out with (repeat with this one), `retry_after_s` the wait in
    seconds the service asked for, `problem` the whole problem document.
    """

    def __init__(
        self,
        detail: str,
        *,
        code: str,
        status: int | None = None,
        retryable: bool = False,
        request_id: str | None = None,
        key: str | None = None,
        retry_after_s: float | None = None,
        problem: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.status = status
        self.retryable = retryable
        self.request_id = request_id
        self.key = key
        self.retry_after_s = retry_after_s
        self.problem: Mapping[str, Any] = problem if problem is not None else {}

    def __str__(self) -> str:
        quoted = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.code}: {self.detail}{quoted}"


class BadRequest(HoldfastError):
    """The request's form is wrong: Idempotency-Key missing or invalid, or JSON broken."""


class Unauthenticated(HoldfastError):
    """The API key is missing, unknown or revoked."""


class Forbidden(HoldfastError):
    """The API key's scope does not allow this call."""


class PaymentRequired(HoldfastError):
    """Money says no. Nothing was changed, and the same key may succeed later."""


class InsufficientCredits(PaymentRequired):
    """The account has less available than was asked for."""


class LimitExceeded(PaymentRequired):
    """A limit of the account or of the member denies it; `problem["limit"]` names it."""


class CommitExceedsFunds(PaymentRequired):
    """The commit needs more than the hold and the account have; the hold is unchanged."""


class NotFound(HoldfastError):
    """No such route, or nothing under that name within the API key's accounts."""


class AccountNotFound(NotFound):
    """The account does not exist, or lies outside the API key's accounts."""


class HoldNotFound(NotFound):
    """The account has no such hold."""


class Conflict(HoldfastError):
    """The state of the hold or of the account forbids the call."""


class HoldCommitted(Conflict):
    """The hold was committed before, by another call."""


class HoldReleased(Conflict):
    """The hold was released before."""


class HoldExpired(Conflict):
    """The hold is past its deadline and cannot be extended; it can still be committed."""


class HoldOpen(Conflict):
    """The hold is still open, so that there is nothing to refund."""


class AccountFrozen(Conflict):
    """The account is frozen: open holds may end, nothing new may begin."""


class AccountClosed(Conflict):
    """The account is closed."""


class AccountNotEmpty(Conflict):
    """The account is to be closed and has something in it; `problem` names what."""


class PaymentDuplicate(Conflict):
    """This payment was recorded before with another content."""


class BodyTooLarge(HoldfastError):
    """The body is over 64 KiB (a batch: over 4 MiB)."""


class Invalid(HoldfastError):
    """The request's content is refused."""


class InvalidRequest(Invalid):
    """A field is unknown, missing or out of range; `problem["errors"]` names each."""


class AmountLimit(Invalid):
    """An amount or a balance would pass 9·10^15 microcredits."""


class RefundExceeds(Invalid):
    """More would be given back than was taken."""


class IdempotencyKeyReused(Invalid):
    """The key was used for another request; `problem["errors"]` names the field that differs."""


class PriceUnknown(Invalid):
    """No price is known for the model."""


class PriceAnomaly(Invalid):
    """The price is outside the bounds that the operator set."""


class RateLimited(HoldfastError):
    """Too many requests; `retry_after_s` says how long to wait."""


class Unavailable(HoldfastError):
    """The service refuses for now. Nothing was changed."""


class StoreUnavailable(Unavailable):
    """One of the two stores cannot be trusted now; `problem["store"]` says which and why."""


class Overloaded(Unavailable):
    """The service has too much to do."""


class OutcomeUnknown(HoldfastError):
    """It may or may not have happened: repeat with the same key (`key`) to learn which."""


class ConnectionLost(OutcomeUnknown):
    """No answer came: the connection failed, broke, or the answer took too long."""


class UnexpectedAnswer(HoldfastError):
    """The answer is not of holdfast's contract: a proxy's page, or another service."""


_BY_CODE: dict[str, type[HoldfastError]] = {
    "insufficient_credits": InsufficientCredits,
    "limit_exceeded": LimitExceeded,
    "commit_exceeds_funds": CommitExceedsFunds,
    "account_not_found": AccountNotFound,
    "hold_not_found": HoldNotFound,
    "hold_committed": HoldCommitted,
    "hold_released": HoldReleased,
    "hold_expired": HoldExpired,
    "hold_open": HoldOpen,
    "account_frozen": AccountFrozen,
    "account_closed": AccountClosed,
    "account_not_empty": AccountNotEmpty,
    "payment_duplicate": PaymentDuplicate,
    "invalid_request": InvalidRequest,
    "amount_limit": AmountLimit,
    "refund_exceeds": RefundExceeds,
    "idempotency_key_reused": IdempotencyKeyReused,
    "price_unknown": PriceUnknown,
    "price_anomaly": PriceAnomaly,
    "store_unavailable": StoreUnavailable,
    "overloaded": Overloaded,
    "outcome_unknown": OutcomeUnknown,
}

_BY_STATUS: dict[int, type[HoldfastError]] = {
    400: BadRequest,
    401: Unauthenticated,
    402: PaymentRequired,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: BodyTooLarge,
    422: Invalid,
    429: RateLimited,
    500: OutcomeUnknown,
    503: Unavailable,
}


def error_from_answer(
    status: int, headers: Mapping[str, str], body: bytes, *, key: str | None
) -> HoldfastError:
    """The typed error for an answer that is not a success. `headers` finds names in lower case."""
    retry_after_s = _retry_after_s(headers.get("retry-after"))
    problem = _problem(headers.get("content-type", ""), body)
    if problem is None:
        if status >= 500:
            # Of whatever stands between, or of a service that broke: the request may have counted,
            # and with the same key it may be repeated.
            return OutcomeUnknown(
                f"a {status} with no problem document, so that what happened is not known",
                code="outcome_unknown",
                status=status,
                retryable=True,
                request_id=headers.get("x-request-id"),
                key=key,
                retry_after_s=retry_after_s,
            )
        return UnexpectedAnswer(
            f"status {status} with no problem document: is this holdfast's address?",
            code="unexpected_answer",
            status=status,
            request_id=headers.get("x-request-id"),
            key=key,
        )
    code = str(problem.get("code", f"status_{status}"))
    retryable = problem.get("retryable") is True and headers.get("x-should-retry") != "false"
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status, HoldfastError)
    return kind(
        str(problem.get("detail") or problem.get("title") or code),
        code=code,
        status=status,
        retryable=retryable,
        request_id=_text(problem.get("request_id")) or headers.get("x-request-id"),
        key=key,
        retry_after_s=retry_after_s,
        problem=problem,
    )


def _problem(content_type: str, body: bytes) -> Mapping[str, Any] | None:
    if not content_type.startswith("application/problem+json"):
        return None
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _retry_after_s(value: str | None) -> float | None:
    """Seconds from a Retry-After header, which holds a number of seconds or an HTTP date."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        until = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
