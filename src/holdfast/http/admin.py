"""API keys over HTTP, for callers with the scope `admin` that are not restricted to accounts."""

from __future__ import annotations

from holdfast import api_keys
from holdfast.errors import Forbidden
from holdfast.http.answers import (
    Answer,
    ApiKeyAnswer,
    ListAnswer,
    NewApiKeyAnswer,
    api_key_answer,
)
from holdfast.http.bodies import NewApiKey, NoQuery, Page
from holdfast.http.requests import Call


async def list_keys(call: Call, query: Page) -> Answer[ListAnswer[ApiKeyAnswer]]:
    """All API keys by id, without their secrets."""
    unrestricted(call)
    pool = call.service.ledger.pool
    keys = await api_keys.page(pool, query.after or "", query.limit + 1)
    data = [api_key_answer(key) for key in keys[: query.limit]]
    more = len(keys) > query.limit
    return Answer(200, {"data": data, "next": data[-1]["id"] if more else None})


async def make_key(call: Call, body: NewApiKey) -> Answer[NewApiKeyAnswer]:
    """Make an API key. Its token is in this answer and nowhere else, ever again."""
    unrestricted(call)
    key, token = await api_keys.create(
        call.service.ledger.pool, body.name, body.scopes, body.accounts, by=call.caller()
    )
    return Answer(201, {**api_key_answer(key), "token": token})


async def revoke_key(call: Call, query: NoQuery) -> Answer[ApiKeyAnswer]:
    """Revoke an API key; it stops within a minute everywhere."""
    unrestricted(call)
    pool = call.service.ledger.pool
    return Answer(200, api_key_answer(await api_keys.revoke(pool, call.name, by=call.caller())))


def unrestricted(call: Call) -> None:
    """Raises Forbidden: a key for some accounts must not make itself one for all."""
    if call.api_key.accounts is not None:
        raise Forbidden("this needs an API key that is not restricted to accounts")
