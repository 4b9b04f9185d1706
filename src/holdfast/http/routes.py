"""The one table of routes: what is called, by whom, with what, and what comes back.

Dispatch, batches and OpenAPI all read it. Paths are matched segment by segment; a parameter takes
any segment that is not empty, and its grammar is checked by the call that it becomes part of.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from holdfast.http import (
    accounts,
    adjustments,
    admin,
    answers,
    audit,
    batch,
    bodies,
    compensations,
    debts,
    endpoints,
    holds,
    listings,
    movements,
    ops,
    payments,
    plans,
    statistics,
    trials,
)
from holdfast.http.answers import Answer
from holdfast.http.bodies import Form
from holdfast.http.requests import MAX_BATCH_BYTES, MAX_BODY_BYTES, MAX_EVENT_BYTES, Call

Endpoint = Callable[[Call, Any], Awaitable[Answer[Any]]]
Method = Literal["GET", "PUT", "POST", "DELETE"]

READ: Final = frozenset({"read"})
LOOK: Final = frozenset({"read", "spend"})
SPEND: Final = frozenset({"spend"})
CREDIT: Final = frozenset({"credit"})
ADMIN: Final = frozenset({"admin"})
BATCH: Final = SPEND | CREDIT
OWES: Final = CREDIT | ADMIN
ON_TRIAL: Final = READ | ADMIN
NOBODY: Final[frozenset[str]] = frozenset()

# Codes that belong to what a route does; those that any call can meet are added by OpenAPI.
_SPENDING: Final = (
    *("account_not_found", "insufficient_credits", "limit_exceeded", "account_frozen"),
    *("account_closed", "amount_limit", "idempotency_key_reused", "outcome_unknown"),
)
_OF_HOLD: Final = (
    *("account_not_found", "hold_not_found", "idempotency_key_reused", "outcome_unknown"),
)


@dataclass(frozen=True, slots=True)
class Route:
    """One route. `scopes`: any one of them is enough; none: open to everybody.

    `form` is the model of the body, of GET and DELETE that of the query. `answer` is the shape of
    the document, None for what is no JSON. `made`: a success may be 201. `settles`: the
    Holdfast-Durability header counts. `signature`: the header that signs the body, which then stays
    as it is.
    """

    name: str
    method: Method
    path: str
    endpoint: Endpoint
    scopes: frozenset[str]
    form: type[Form]
    answer: Any
    key: Literal["required", "optional", "none"] = "none"
    made: bool = False
    settles: bool = False
    errors: Sequence[str] = ()
    max_body_bytes: int = MAX_BODY_BYTES
    signature: str = ""

    @property
    def params(self) -> tuple[str, ...]:
        """Names of the path's parameters, in order."""
        return tuple(part[1:-1] for part in self.path.split("/") if part.startswith("{"))

    @property
    def has_body(self) -> bool:
        return self.method in ("POST", "PUT")


_ACCOUNT = "/v1/accounts/{account}"
_HOLD = _ACCOUNT + "/holds/{hold}"
_TRIAL = _ACCOUNT + "/trial"
_COMPENSATIONS = "/v1/admin/compensations"
_RETRY_COMPENSATION = _COMPENSATIONS + "/{name}/retry"
_ENDPOINTS = "/v1/admin/endpoints"
_ENDPOINT = _ENDPOINTS + "/{name}"
_DELIVERIES = "/v1/admin/deliveries"
_RESEND = _DELIVERIES + "/{name}/resend"

ROUTES: Final[Sequence[Route]] = (
    # holds
    Route(
        *("reserve", "POST", _ACCOUNT + "/holds", holds.reserve, SPEND),
        *(bodies.Reserve, answers.HoldAnswer, "required"),
        made=True,
        settles=True,
        errors=_SPENDING,
    ),
    Route(
        *("commit", "POST", _HOLD + "/commit", holds.commit, SPEND),
        *(bodies.Commit, answers.HoldAnswer, "optional"),
        settles=True,
        errors=(*_OF_HOLD, "commit_exceeds_funds", "hold_committed", "hold_released"),
    ),
    Route(
        *("release", "POST", _HOLD + "/release", holds.release, SPEND),
        *(bodies.Release, answers.HoldAnswer, "optional"),
        settles=True,
        errors=(*_OF_HOLD, "hold_committed"),
    ),
    Route(
        *("extend", "POST", _HOLD + "/extend", holds.extend, SPEND),
        *(bodies.Extend, answers.HoldAnswer, "optional"),
        settles=True,
        errors=(
            *(*_SPENDING, "hold_not_found"),
            *("hold_committed", "hold_released", "hold_expired"),
        ),
    ),
    Route(
        *("get_hold", "GET", _HOLD, holds.get_hold, LOOK),
        *(bodies.NoQuery, answers.HoldAnswer),
        errors=("account_not_found", "hold_not_found"),
    ),
    # movements
    Route(
        *("charge", "POST", _ACCOUNT + "/charges", movements.charge, SPEND),
        *(bodies.Charge, answers.MovementAnswer, "required"),
        made=True,
        settles=True,
        errors=_SPENDING,
    ),
    Route(
        *("refund", "POST", _ACCOUNT + "/refunds", movements.refund, CREDIT),
        *(bodies.Refund, answers.MovementAnswer, "required"),
        made=True,
        settles=True,
        errors=(*_OF_HOLD, "hold_open", "refund_exceeds", "amount_limit"),
    ),
    Route(
        *("grant", "POST", _ACCOUNT + "/grants", movements.grant, CREDIT),
        *(bodies.Grant, answers.MovementAnswer, "required"),
        made=True,
        settles=True,
        errors=(
            *("account_not_found", "account_closed", "amount_limit", "payment_duplicate"),
            *("idempotency_key_reused", "outcome_unknown"),
        ),
    ),
    Route(
        *("batch", "POST", "/v1/batch", batch.batch, BATCH),
        *(bodies.Batch, answers.BatchAnswer),
        settles=True,
        max_body_bytes=MAX_BATCH_BYTES,
    ),
    # accounts and members
    Route(
        *("put_account", "PUT", _ACCOUNT, accounts.put_account, ADMIN),
        *(bodies.AccountSettings, answers.AccountAnswer),
        made=True,
        settles=True,
        errors=("account_not_found", "account_closed", "outcome_unknown"),
    ),
    Route(
        *("get_account", "GET", _ACCOUNT, accounts.get_account, READ),
        *(bodies.NoQuery, answers.AccountAnswer),
        errors=("account_not_found",),
    ),
    Route(
        *("adjust", "POST", _ACCOUNT + "/adjustments", adjustments.adjust, ADMIN),
        *(adjustments.Adjust, answers.MovementAnswer, "required"),
        made=True,
        settles=True,
        errors=(
            *("account_not_found", "account_closed", "insufficient_credits", "amount_limit"),
            *("idempotency_key_reused", "outcome_unknown"),
        ),
    ),
    Route(
        *("close_account", "POST", _ACCOUNT + "/close", adjustments.close, ADMIN),
        *(adjustments.Close, answers.AccountAnswer),
        settles=True,
        errors=("account_not_found", "account_not_empty", "outcome_unknown"),
    ),
    Route(
        *("put_member", "PUT", _ACCOUNT + "/members/{member}", accounts.put_member, ADMIN),
        *(bodies.MemberLimits, answers.MemberAnswer),
        made=True,
        settles=True,
        errors=("account_not_found", "account_closed", "outcome_unknown"),
    ),
    Route(
        *("get_member", "GET", _ACCOUNT + "/members/{member}", accounts.get_member, READ),
        *(bodies.NoQuery, answers.MemberAnswer),
        errors=("account_not_found",),
    ),
    # lists
    Route(
        *("list_accounts", "GET", "/v1/accounts", listings.list_accounts, READ),
        *(bodies.AccountsPage, answers.ListAnswer[answers.AccountAnswer]),
    ),
    Route(
        *("list_entries", "GET", _ACCOUNT + "/entries", listings.list_entries, READ),
        *(bodies.Page, answers.ListAnswer[answers.EntryAnswer]),
        errors=("account_not_found",),
    ),
    Route(
        *("list_holds", "GET", _ACCOUNT + "/holds", listings.list_holds, READ),
        *(bodies.HoldsPage, answers.ListAnswer[answers.HoldAnswer]),
        errors=("account_not_found",),
    ),
    Route(
        *("list_usage", "GET", _ACCOUNT + "/usage", statistics.list_usage, READ),
        *(statistics.UsagePage, answers.ListAnswer[statistics.UsageAnswer]),
        errors=("account_not_found",),
    ),
    Route(
        *("forecast", "GET", _ACCOUNT + "/forecast", statistics.forecast, READ),
        *(bodies.NoQuery, statistics.ForecastAnswer),
        errors=("account_not_found",),
    ),
    # API keys
    Route(
        *("list_keys", "GET", "/v1/admin/keys", admin.list_keys, ADMIN),
        *(bodies.Page, answers.ListAnswer[answers.ApiKeyAnswer]),
    ),
    Route(
        *("make_key", "POST", "/v1/admin/keys", admin.make_key, ADMIN),
        *(bodies.NewApiKey, answers.NewApiKeyAnswer),
        made=True,
    ),
    Route(
        *("revoke_key", "DELETE", "/v1/admin/keys/{name}", admin.revoke_key, ADMIN),
        *(bodies.NoQuery, answers.ApiKeyAnswer),
        errors=("not_found",),
    ),
    # plans and allowances
    Route(
        *("list_plans", "GET", "/v1/admin/plans", plans.list_plans, ADMIN),
        *(bodies.Page, answers.ListAnswer[plans.PlanAnswer]),
    ),
    Route(
        *("put_plan", "PUT", "/v1/admin/plans/{name}", plans.put_plan, ADMIN),
        *(plans.NewPlan, plans.PlanAnswer),
        made=True,
    ),
    Route(
        *("get_plan", "GET", "/v1/admin/plans/{name}", plans.get_plan, ADMIN),
        *(bodies.NoQuery, plans.PlanAnswer),
        errors=("not_found",),
    ),
    Route(
        *("list_allowances", "GET", "/v1/admin/allowances", plans.list_allowances, ADMIN),
        *(bodies.Page, answers.ListAnswer[plans.AllowanceAnswer]),
    ),
    Route(
        *("put_allowance", "PUT", _ACCOUNT + "/allowance", plans.put_allowance, ADMIN),
        *(plans.NewAllowance, plans.AllowanceAnswer),
        settles=True,
        errors=("account_not_found", "account_closed", "outcome_unknown"),
    ),
    Route(
        *("get_allowance", "GET", _ACCOUNT + "/allowance", plans.get_allowance, READ),
        *(bodies.Page, plans.AllowanceHistoryAnswer),
        errors=("not_found",),
    ),
    Route(
        *("stop_allowance", "DELETE", _ACCOUNT + "/allowance", plans.stop_allowance, ADMIN),
        *(bodies.NoQuery, plans.AllowanceAnswer),
        errors=("not_found",),
    ),
    # trials
    Route(
        *("start_trial", "PUT", _TRIAL, trials.start_trial, ADMIN),
        *(trials.NewTrial, trials.TrialAnswer),
        made=True,
        errors=("account_not_found", "account_closed", "trial_refused", "trial_used"),
    ),
    Route(
        *("get_trial", "GET", _TRIAL, trials.get_trial, ON_TRIAL),
        *(bodies.NoQuery, trials.TrialAnswer),
        errors=("not_found",),
    ),
    Route(
        *("end_trial", "DELETE", _TRIAL, trials.end_trial, ADMIN),
        *(trials.EndTrial, trials.TrialAnswer),
        errors=("not_found",),
    ),
    Route(
        *("list_trials", "GET", "/v1/admin/trials", trials.list_trials, ADMIN),
        *(trials.TrialsPage, answers.ListAnswer[trials.TrialAnswer]),
    ),
    # audit
    Route(
        *("list_audit", "GET", "/v1/admin/audit", audit.list_audit, ADMIN),
        *(audit.AuditPage, answers.ListAnswer[audit.AuditAnswer]),
    ),
    # compensations
    Route(
        *("add_compensation", "POST", _COMPENSATIONS, compensations.add, OWES),
        *(compensations.NewCompensation, compensations.CompensationAnswer),
        made=True,
        errors=("account_not_found", "idempotency_key_reused"),
    ),
    Route(
        *("list_compensations", "GET", _COMPENSATIONS, compensations.page, OWES),
        *(compensations.CompensationsPage, answers.ListAnswer[compensations.CompensationAnswer]),
    ),
    Route(
        *("run_compensations", "POST", _COMPENSATIONS + "/run", compensations.run, OWES),
        *(compensations.Run, compensations.RunAnswer),
    ),
    Route(
        *("retry_compensation", "POST", _RETRY_COMPENSATION, compensations.retry, OWES),
        *(compensations.Run, compensations.CompensationAnswer),
        errors=("not_found",),
    ),
    # payment providers
    Route(
        *("stripe", "POST", "/v1/webhooks/stripe", payments.stripe, NOBODY),
        *(payments.Signed, payments.EventAnswer),
        errors=("signature_invalid", "not_found"),
        max_body_bytes=MAX_EVENT_BYTES,
        signature="Stripe-Signature",
    ),
    # debts
    Route(
        *("list_debts", "GET", "/v1/admin/debts", debts.list_debts, ADMIN),
        *(debts.DebtsPage, answers.ListAnswer[debts.DebtAnswer]),
    ),
    Route(
        *("list_uncollected", "GET", "/v1/admin/debts/uncollected", debts.list_uncollected, ADMIN),
        *(debts.DebtsPage, answers.ListAnswer[debts.UncollectedAnswer]),
    ),
    Route(
        *("collect", "POST", "/v1/admin/debts/collect", debts.collect, ADMIN),
        *(debts.Collect, answers.MovementAnswer, "optional"),
        made=True,
        errors=("not_found", *_SPENDING),
    ),
    # endpoints for events, and their deliveries
    Route(
        *("list_endpoints", "GET", _ENDPOINTS, endpoints.list_endpoints, ADMIN),
        *(bodies.Page, answers.ListAnswer[endpoints.EndpointAnswer]),
    ),
    Route(
        *("add_endpoint", "POST", _ENDPOINTS, endpoints.add_endpoint, ADMIN),
        *(endpoints.NewEndpoint, endpoints.NewSecretAnswer),
        made=True,
    ),
    Route(
        *("remove_endpoint", "DELETE", _ENDPOINT, endpoints.remove_endpoint, ADMIN),
        *(bodies.NoQuery, endpoints.EndpointAnswer),
        errors=("not_found",),
    ),
    Route(
        *("disable_endpoint", "POST", _ENDPOINT + "/disable", endpoints.disable_endpoint, ADMIN),
        *(endpoints.NoFields, endpoints.EndpointAnswer),
        errors=("not_found",),
    ),
    Route(
        *("enable_endpoint", "POST", _ENDPOINT + "/enable", endpoints.enable_endpoint, ADMIN),
        *(endpoints.NoFields, endpoints.EndpointAnswer),
        errors=("not_found",),
    ),
    Route(
        *("rotate_endpoint", "POST", _ENDPOINT + "/rotate", endpoints.rotate_endpoint, ADMIN),
        *(endpoints.NoFields, endpoints.NewSecretAnswer),
        errors=("not_found",),
    ),
    Route(
        *("test_endpoint", "POST", _ENDPOINT + "/test", endpoints.test_endpoint, ADMIN),
        *(endpoints.NoFields, endpoints.DeliveryAnswer),
        errors=("not_found",),
    ),
    Route(
        *("list_deliveries", "GET", _DELIVERIES, endpoints.list_deliveries, ADMIN),
        *(endpoints.DeliveriesPage, answers.ListAnswer[endpoints.DeliveryAnswer]),
        errors=("not_found",),
    ),
    Route(
        *("resend_delivery", "POST", _RESEND, endpoints.resend_delivery, ADMIN),
        *(endpoints.NoFields, endpoints.DeliveryAnswer),
        errors=("not_found",),
    ),
    # for operators and machines
    Route("livez", "GET", "/livez", ops.livez, NOBODY, bodies.NoQuery, ops.LiveAnswer),
    Route("readyz", "GET", "/readyz", ops.readyz, NOBODY, bodies.NoQuery, ops.ReadyAnswer),
    Route("metrics", "GET", "/metrics", ops.metrics, NOBODY, bodies.NoQuery, None),
    Route("openapi", "GET", "/openapi.json", ops.openapi, NOBODY, bodies.NoQuery, dict[str, Any]),
    Route(
        *("problem", "GET", "/problems/{name}", ops.problem, NOBODY, bodies.NoQuery, None),
        errors=("not_found",),
    ),
)


class _Node:
    """The rest of some paths after one beginning."""

    __slots__ = ("fixed", "methods", "parameter", "parameter_name")

    def __init__(self) -> None:
        self.fixed: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.parameter_name = ""
        self.methods: dict[str, Route] = {}

    def below(self, part: str) -> _Node:
        """The node after one more segment of a path, made if need be."""
        if not part.startswith("{"):
            return self.fixed.setdefault(part, _Node())
        name = part[1:-1]
        if self.parameter is None:
            self.parameter, self.parameter_name = _Node(), name
        if self.parameter_name != name:
            raise ValueError(f"one segment is called both {self.parameter_name} and {name}")
        return self.parameter


class Router:
    """Finds routes by path: a dictionary look-up a segment, without a regular expression."""

    def __init__(self, routes: Sequence[Route] = ROUTES) -> None:
        self._root = _Node()
        for route in routes:
            node = self._root
            for part in route.path.split("/")[1:]:
                node = node.below(part)
            if route.method in node.methods:
                raise ValueError(f"{route.method} {route.path} is there twice")
            node.methods[route.method] = route

    def find(self, path: str) -> tuple[dict[str, Route], dict[str, str]] | None:
        """The routes of a path by method, and its parameters; None where there are none."""
        node = self._root
        ids: dict[str, str] = {}
        for part in path.split("/")[1:]:
            following = node.fixed.get(part)
            if following is None:
                following = node.parameter
                if following is None or not part:
                    return None
                ids[node.parameter_name] = part
            node = following
        return (node.methods, ids) if node.methods else None
