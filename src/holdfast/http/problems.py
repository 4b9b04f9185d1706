"""Refusals as answers: RFC 9457 problem documents, their headers, and a page for each code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from holdfast.errors import (
    HoldfastError,
    MethodNotAllowed,
    PaymentRequired,
    Unauthenticated,
    Unavailable,
)
from holdfast.telemetry import Sampler, log

MEDIA_TYPE: Final = b"application/problem+json"

HeaderList = list[tuple[bytes, bytes]]

# What is rounded for callers that may not read balances, to 0.01 credit.
_BALANCES: Final = ("available", "held", "short", "debt")
_CENT: Final = 10_000


@dataclass(frozen=True, slots=True)
class Explanation:
    """A code, for people: its status, what it means, and what to do about it."""

    status: int
    meaning: str
    advice: str


CODES: Final[Mapping[str, Explanation]] = {
    "idempotency_key_missing": Explanation(
        400,
        "The call changes something and has no Idempotency-Key header.",
        "Send a key of your own for each piece of work, and the same one when you repeat it.",
    ),
    "idempotency_key_invalid": Explanation(
        400,
        "The Idempotency-Key is not 1 to 128 characters of A-Z a-z 0-9 _ . : -",
        "Use such a key, bare or in double quotes; a UUID will do.",
    ),
    "malformed_json": Explanation(
        400, "The body is not JSON.", "Send one JSON object, encoded as UTF-8."
    ),
    "signature_invalid": Explanation(
        400,
        "The event is not signed with the secret that is configured, or was signed long ago.",
        "Compare HOLDFAST_STRIPE_WEBHOOK_SECRET with the endpoint's secret, and the clocks.",
    ),
    "unauthenticated": Explanation(
        401,
        "The API key is missing, unknown or revoked.",
        "Send `Authorization: Bearer hf_…` with a key that an operator made.",
    ),
    "insufficient_credits": Explanation(
        402,
        "The account has less available than the call asks for. Nothing was changed.",
        "Add credits, then repeat the call; the same key may be used.",
    ),
    "limit_exceeded": Explanation(
        402,
        "A limit of the account or of the member denies the call; `limit` names it.",
        "Wait for the next day or month, name a model that it allows, or have the limit raised; the"
        " same key may be used.",
    ),
    "commit_exceeds_funds": Explanation(
        402,
        "The commit is larger than the hold and what the account has. The hold is unchanged.",
        "Commit less, or say with on_shortfall to cap it or to take it as debt.",
    ),
    "forbidden": Explanation(
        403, "The API key lacks the scope for this call.", "Use a key with that scope."
    ),
    "not_found": Explanation(404, "There is nothing under this path.", "See /docs for the routes."),
    "account_not_found": Explanation(
        404,
        "The account does not exist, or lies outside what the API key may see.",
        "Open it with PUT /v1/accounts/{account}.",
    ),
    "hold_not_found": Explanation(
        404, "The account has no such hold.", "A hold's id is the key it was made with."
    ),
    "method_not_allowed": Explanation(
        405, "The path exists, but not with this method.", "The Allow header lists its methods."
    ),
    "hold_committed": Explanation(
        409,
        "The hold was committed by another call.",
        "Nothing is left to do; GET the hold to see what it took.",
    ),
    "hold_released": Explanation(409, "The hold was released.", "Charge the account instead."),
    "hold_expired": Explanation(
        409,
        "The hold is past its deadline and cannot be extended.",
        "Commit it late, or make a new one.",
    ),
    "hold_open": Explanation(
        409, "The hold is still open, so nothing can be refunded of it.", "Commit or release it."
    ),
    "account_frozen": Explanation(
        409,
        "The account is frozen: open holds may end, nothing new may begin.",
        "An operator must set it to active.",
    ),
    "account_closed": Explanation(409, "The account is closed.", "Use another account."),
    "account_not_empty": Explanation(
        409,
        "The account has a balance or open holds, and so does not close; members name them.",
        "End its holds; use up the balance, or close it with write_off.",
    ),
    "payment_duplicate": Explanation(
        409,
        "This payment was recorded before with another content.",
        "Compare what the payment provider reported.",
    ),
    "trial_refused": Explanation(
        409,
        "The account shows signs of a paid plan, so it gets no trial; `signs` names them.",
        "Nothing, if it pays; else take away what `signs` names.",
    ),
    "trial_used": Explanation(
        409,
        "The account had its trial, with another content. It gets no other one, ever.",
        "GET its trial to see what it was; for more credits, grant them.",
    ),
    "body_too_large": Explanation(
        413, "The body is larger than this route takes.", "64 KiB, for /v1/batch 4 MiB."
    ),
    "invalid_request": Explanation(
        422,
        "A field, a parameter or a header is not acceptable; `errors` names each.",
        "Correct it; the key was not used up.",
    ),
    "amount_limit": Explanation(
        422,
        "An amount or a balance would pass 9,000,000,000,000,000 microcredits.",
        "Nothing was changed. Use a smaller amount.",
    ),
    "refund_exceeds": Explanation(
        422,
        "More would be given back than was taken, over all refunds of it.",
        "Refund at most what is left; without an amount, that is what is refunded.",
    ),
    "idempotency_key_reused": Explanation(
        422,
        "The key was used before for another request; `errors` names the first field that differs.",
        "Repeat the first request as it was, or use a new key.",
    ),
    "rate_limited": Explanation(429, "Too many calls.", "Wait as long as Retry-After says."),
    "internal_error": Explanation(
        500,
        "The service met a bug; it is logged under the request's id.",
        "Repeat the call with the same key: if it did happen, you are told what it did.",
    ),
    "store_unavailable": Explanation(
        503,
        "A store cannot be trusted now, so nothing was changed; `store` says which and why: redis,"
        " postgres, fenced, lease, backlog, clock.",
        "Repeat the call after Retry-After, with the same key.",
    ),
    "overloaded": Explanation(
        503,
        "Too much is going on at once; nothing was changed.",
        "Repeat the call after Retry-After, with the same key.",
    ),
    "outcome_unknown": Explanation(
        503,
        "The call may or may not have happened: its answer was lost.",
        "Repeat it with the same key, and you are told what it did.",
    ),
}


class InternalError(HoldfastError):
    """The service met a bug"""

    # It may have happened before the bug was met; with the same key it is safe to ask again.
    retryable = True


_logged = Sampler()


def refusal_of(error: Exception, call: str, request_id: str) -> HoldfastError:
    """What an exception is to the caller; what an operator should know of it is logged."""
    if not isinstance(error, HoldfastError):
        log("call_broke", call=call, request_id=request_id, exc_info=error)
        return InternalError("the service met a bug; it is logged under this request_id")
    if isinstance(error, Unavailable):
        store = str(error.members.get("store", error.code))
        _logged.log("call_unavailable", store, store=store, detail=error.detail, call=call)
    return error


def document(error: HoldfastError, request_id: str, *, may_read: bool) -> dict[str, Any]:
    """The problem document. Without `may_read`, balances are rounded down to 0.01 credit."""
    members = dict(error.members)
    if not may_read:
        for name in _BALANCES:
            if isinstance(members.get(name), int):
                members[name] = members[name] // _CENT * _CENT
    return members | {
        "type": f"/problems/{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "request_id": request_id,
        "retryable": error.retryable,
    }


def headers(error: HoldfastError) -> HeaderList:
    """What a problem's answer has of headers beside those that every answer has."""
    found: HeaderList = []
    if error.retry_after_s is not None:
        found.append((b"retry-after", b"%d" % error.retry_after_s))
    if isinstance(error, PaymentRequired):
        # Some SDKs repeat what they do not know; more credits do not come by asking again.
        found.append((b"x-should-retry", b"false"))
    if isinstance(error, Unauthenticated):
        found.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, MethodNotAllowed):
        found.append((b"allow", ", ".join(error.members["allow"]).encode()))
    if error.status == 413:
        # What is left of the body is not wanted, and may never end.
        found.append((b"connection", b"close"))
    return found


def page(code: str) -> bytes | None:
    """What `/problems/<code>` shows, or None where there is no such code."""
    explanation = CODES.get(code)
    if explanation is None:
        return None
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{code}</title>'
        f"<h1>{explanation.status} {code}</h1>"
        f"<p>{escape(explanation.meaning)}</p><p>{escape(explanation.advice)}</p></html>\n"
    ).encode()
