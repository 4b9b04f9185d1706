"""Accounts and members over HTTP: settings and balances."""

from __future__ import annotations

from holdfast import plans
from holdfast.http.answers import (
    AccountAnswer,
    Answer,
    MemberAnswer,
    account_answer,
    member_answer,
)
from holdfast.http.bodies import AccountSettings, MemberLimits, NoQuery
from holdfast.http.requests import Call


async def put_account(call: Call, body: AccountSettings) -> Answer[AccountAnswer]:
    """Open the account (201), or change its settings (200).

    What is left out stays as it is, null takes a setting away; `{}` opens an account that has none.
    A plan brings its limits, but for those that are sent with it.
    """
    # What was sent, null included; what was not sent has its default in `body` and is not meant.
    settings = {name: getattr(body, name) for name in body.model_fields_set - {"reason"}}
    context = call.audited_context(reason=body.reason)
    if "plan" in settings:
        account = await plans.assign(
            call.ledger,
            call.account,
            settings,
            context=context,
            by=call.caller(),
            durability=call.durability,
        )
    else:
        account = await call.ledger.put_account(
            call.account, settings, context=context, durability=call.durability
        )
    return Answer(201 if account.created else 200, account_answer(account))


async def get_account(call: Call, query: NoQuery) -> Answer[AccountAnswer]:
    """Balances and settings of the account, as they are now."""
    return Answer(200, account_answer(await call.ledger.get_account(call.account)))


async def put_member(call: Call, body: MemberLimits) -> Answer[MemberAnswer]:
    """Change limits of a member (201 where it had none before).

    What is left out stays as it is, null takes a limit away.
    """
    limits = {name: getattr(body, name) for name in body.model_fields_set}
    member = await call.ledger.put_member(
        call.account,
        call.member,
        limits,
        context=call.audited_context(),
        durability=call.durability,
    )
    return Answer(201 if member.created else 200, member_answer(member))


async def get_member(call: Call, query: NoQuery) -> Answer[MemberAnswer]:
    """Limits and usage of the member, as they are now."""
    return Answer(200, member_answer(await call.ledger.get_member(call.account, call.member)))
