"""Every refusal that a caller of the ledger or of HTTP can meet, as one tree.

    HoldfastError
    ├── InvalidRequest           422  a field is wrong; names it
    │   ├── KeyMissing           400
    │   ├── KeyInvalid           400
    │   ├── MalformedJson        400
    │   ├── SignatureInvalid     400
    │   ├── BodyTooLarge         413
    │   ├── AmountLimit          422
    │   ├── RefundExceeds        422
    │   └── KeyReused            422
    ├── Unauthenticated          401
    ├── Forbidden                403
    ├── PaymentRequired          402
    │   ├── InsufficientCredits
    │   ├── LimitExceeded
    │   └── CommitExceedsFunds
    ├── NotFound                 404  (account, hold, route), 405
    ├── Conflict                 409  hold_committed, hold_released, hold_expired, hold_open,
    │                                 account_frozen, account_closed, account_not_empty,
    │                                 payment_duplicate, trial_refused, trial_used
    ├── RateLimited              429
    └── Unavailable              503
        ├── StoreUnavailable          nothing happened
        ├── OverloadedError           nothing happened
        └── UnknownOutcome            it may have happened: repeat with the same key

Each knows its status, its stable `code`, and whether the same call may succeed later (`retryable`).
The docstring of a class is its title.
"""

from __future__ import annotations

from typing import Any, ClassVar


class HoldfastError(Exception):
    """The request was refused"""

    status: ClassVar[int] = 500
    code: str = "internal_error"
    retryable: ClassVar[bool] = False
    retry_after_s: ClassVar[int | None] = None

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members

    @property
    def title(self) -> str:
        return (type(self).__doc__ or "").splitlines()[0]


class InvalidRequest(HoldfastError):
    """A field of the request is not acceptable"""

    status = 422
    code = "invalid_request"

    @classmethod
    def of_field(cls, field: str, message: str) -> InvalidRequest:
        return cls(f"{field}: {message}", errors=[{"field": field, "message": message}])


class KeyMissing(InvalidRequest):
    """The Idempotency-Key header is required here"""

    status = 400
    code = "idempotency_key_missing"


class KeyInvalid(InvalidRequest):
    """The Idempotency-Key is not 1 to 128 characters of A-Z a-z 0-9 _ . : -"""

    status = 400
    code = "idempotency_key_invalid"


class MalformedJson(InvalidRequest):
    """The body is not JSON"""

    status = 400
    code = "malformed_json"


class SignatureInvalid(InvalidRequest):
    """The signature is not the provider's, or too old"""

    status = 400
    code = "signature_invalid"


class BodyTooLarge(InvalidRequest):
    """The body is larger than this route takes"""

    status = 413
    code = "body_too_large"


class AmountLimit(InvalidRequest):
    """An amount or a balance would leave the range that is kept exactly"""

    code = "amount_limit"


class RefundExceeds(InvalidRequest):
    """More than was taken cannot be given back"""

    code = "refund_exceeds"


class KeyReused(InvalidRequest):
    """This key was used before, for another request"""

    code = "idempotency_key_reused"


class Unauthenticated(HoldfastError):
    """A valid API key is required"""

    status = 401
    code = "unauthenticated"


class Forbidden(HoldfastError):
    """This API key may not do that"""

    status = 403
    code = "forbidden"


class PaymentRequired(HoldfastError):
    """The account may not spend that"""

    status = 402
    code = "insufficient_credits"


class InsufficientCredits(PaymentRequired):
    """Not enough credits"""


class LimitExceeded(PaymentRequired):
    """A limit of the account or the member denies this"""

    code = "limit_exceeded"


class CommitExceedsFunds(PaymentRequired):
    """The commit is larger than the hold and what is available"""

    code = "commit_exceeds_funds"


class NotFound(HoldfastError):
    """There is no such thing"""

    status = 404
    code = "not_found"

    @classmethod
    def hold(cls, account: str, hold: str) -> NotFound:
        return cls(f"account {account!r} has no hold {hold!r}", code="hold_not_found")

    def __init__(self, detail: str, code: str = "not_found", **members: Any) -> None:
        super().__init__(detail, **members)
        self.code = code


class UnknownAccount(NotFound):
    """There is no such account

    `mark` is how far the journal was when it lacked the account.
    """

    def __init__(self, account: str, mark: int) -> None:
        super().__init__(f"there is no account {account!r}", code="account_not_found")
        self.mark = mark


class MethodNotAllowed(HoldfastError):
    """This route does not take this method"""

    status = 405
    code = "method_not_allowed"


class Conflict(HoldfastError):
    """The state of the hold or the account does not allow that"""

    status = 409
    code = "conflict"

    def __init__(self, detail: str, code: str, **members: Any) -> None:
        super().__init__(detail, **members)
        self.code = code


class RateLimited(HoldfastError):
    """Too many requests"""

    status = 429
    code = "rate_limited"
    retryable = True
    retry_after_s = 1


class Unavailable(HoldfastError):
    """The service cannot answer for certain now"""

    status = 503
    code = "store_unavailable"
    retryable = True
    retry_after_s = 1


class StoreUnavailable(Unavailable):
    """A store cannot be trusted now; nothing was changed

    `store` says which and why: redis, postgres, fenced, lease, backlog, clock.
    """

    def __init__(self, store: str, detail: str) -> None:
        super().__init__(detail, store=store)
        self.store = store


class OverloadedError(Unavailable):
    """Too much work at once; nothing was changed"""

    code = "overloaded"


class UnknownOutcome(Unavailable):
    """It is not known whether this happened: repeat it with the same key"""

    code = "outcome_unknown"
