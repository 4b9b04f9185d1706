"""Lists over HTTP. They come out of Postgres: complete up to what has settled, within a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from holdfast import lists
from holdfast.http.answers import (
    AccountAnswer,
    Answer,
    EntryAnswer,
    HoldAnswer,
    ListAnswer,
    account_answer,
    entry_answer,
    hold_answer,
)
from holdfast.http.bodies import AccountsPage, HoldsPage, Page
from holdfast.http.requests import Call

T = TypeVar("T")
A = TypeVar("A")


async def list_accounts(call: Call, query: AccountsPage) -> Answer[ListAnswer[AccountAnswer]]:
    """Accounts by id, those that the API key covers."""
    prefix, only = query.prefix, None
    covered = call.api_key.accounts
    if covered is not None:
        beginning = covered.removesuffix("*")
        only = covered if beginning == covered else None
        if beginning.startswith(prefix):
            prefix = beginning
        elif not prefix.startswith(beginning):
            return Answer(200, {"data": [], "next": None})
    page = await lists.accounts(
        call.service.ledger.pool, prefix, only=only, after=query.after, limit=query.limit
    )
    return page_answer(page, account_answer)


async def list_entries(call: Call, query: Page) -> Answer[ListAnswer[EntryAnswer]]:
    """The account's journal: every transition once, oldest first."""
    page = await lists.entries(
        call.service.ledger.pool, call.account, after=query.after, limit=query.limit
    )
    await known(call, page)
    return page_answer(page, entry_answer)


async def list_holds(call: Call, query: HoldsPage) -> Answer[ListAnswer[HoldAnswer]]:
    """The account's holds by id, of all states or of one."""
    page = await lists.holds(
        call.service.ledger.pool,
        call.account,
        state=query.state,
        after=query.after,
        limit=query.limit,
    )
    await known(call, page)
    return page_answer(page, hold_answer)


async def known(call: Call, page: lists.Page[T]) -> None:
    """Raises UnknownAccount where nothing is listed because the account does not exist."""
    if not page.data:
        # Redis knows an account that was opened a moment ago and has not settled.
        await call.ledger.get_account(call.account)


def page_answer(page: lists.Page[T], answer: Callable[[T], A]) -> Answer[ListAnswer[A]]:
    """A page as it is sent."""
    return Answer(200, {"data": [answer(each) for each in page.data], "next": page.next})
