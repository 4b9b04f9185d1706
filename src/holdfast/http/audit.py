"""The audit over HTTP, for callers with the scope `admin` that are not restricted to accounts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from holdfast.audit_list import AuditRow, audit_page
from holdfast.http import answers
from holdfast.http.admin import unrestricted
from holdfast.http.answers import Answer, ListAnswer, time_text
from holdfast.http.bodies import Page
from holdfast.http.fields import Id, Time
from holdfast.http.requests import Call


class AuditPage(Page):
    """Which rows of the audit to list."""

    account: Annotated[Id | None, Field(description="only what was done to this account")] = None
    actor: Annotated[
        str | None, Field(max_length=256, description="only what this actor did: `key:<id>`, …")
    ] = None
    since: Annotated[Time | None, Field(description="nothing that is older")] = None


class AuditAnswer(TypedDict):
    """Who changed what, and what stood there before."""

    id: int
    at: answers.Time
    actor: str
    action: str
    subject: Annotated[str, Field(description="what was changed, as kind:name")]
    account: str | None
    key: Annotated[str | None, Field(description="the API key that was used")]
    address: Annotated[str | None, Field(description="where the call came from")]
    request_id: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None


def audit_answer(row: AuditRow) -> AuditAnswer:
    """A row of the audit."""
    return {
        "id": row.id,
        "at": time_text(row.at_us // 1000),
        "actor": row.actor,
        "action": row.action,
        "subject": row.subject,
        "account": row.account,
        "key": row.key,
        "address": row.address,
        "request_id": row.request_id,
        "before": row.before,
        "after": row.after,
    }


async def list_audit(call: Call, query: AuditPage) -> Answer[ListAnswer[AuditAnswer]]:
    """What admins and holdfast itself changed, newest first."""
    unrestricted(call)
    page = await audit_page(
        call.service.ledger.pool,
        account=query.account,
        actor=query.actor,
        since=None if query.since is None else datetime.fromisoformat(query.since.upper()),
        after=query.after,
        limit=query.limit,
    )
    return Answer(200, {"data": [audit_answer(row) for row in page.data], "next": page.next})
