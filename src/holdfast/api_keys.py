"""API keys: who may call, for which accounts, and the cache that outlives a Postgres that is away.

A key is the word `hf_<id>_<secret>`. Postgres has its id, its scopes and the SHA-256 digest of the
word; the word itself is shown once, when it is made. Its 256 random bits need no slow hash.

    unknown ──asked in Postgres──▶ cached ──revoked, or unchecked for `api_key_cache_s`──▶ dropped

Every 30 s one query checks all cached keys, so that a revoked one stops within a minute in every
process. While Postgres is away that check fails and what is cached stays good: commits and releases
of known callers go on. A key that is not cached is then refused as unavailable, not as wrong.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Final, Literal, get_args

from holdfast import audit
from holdfast.audit import SYSTEM, Caller
from holdfast.errors import InvalidRequest, NotFound, StoreUnavailable, Unauthenticated
from holdfast.postgres import Pool
from holdfast.queries import sql
from holdfast.telemetry import log

Scope = Literal["read", "spend", "credit", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
"""`read`: balances and lists; `spend`: holds and charges; `credit`: grants and refunds; `admin`:
settings of accounts and members, API keys."""

ACCOUNTS_PATTERN: Final = r"[A-Za-z0-9_.:-]{1,128}\*?"
"""Accounts that a key is restricted to: one id, or a beginning of ids followed by `*`."""

_ID_LENGTH = 12  # of 36 signs: 62 bits, enough to tell keys apart; the secret is what protects
_TOKEN = re.compile(rb"hf_([a-z0-9]{12})_[A-Za-z0-9_-]{43}")
_ID_SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789"

_CHECK_S = 30.0  # a revoked key must stop within 60 s: two checks, of which one may be late
_RETRY_S = 5.0  # while Postgres is away
# Half a kilobyte each; beyond that the oldest goes, and is asked for again.
_MAX_CACHED = 10_000
# Ids that Postgres does not know, remembered for a moment so that a caller with a wrong key does
# not become a load on Postgres. Whoever floods us with ids makes us forget them, no more.
_MAX_UNKNOWN = 4096
_UNKNOWN_S = 5.0
# Ids in one query: a check of a full cache is ten of these, one after the other.
_MAX_ASKED = 1000


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, without its secret. `accounts` is None, an id, or a beginning followed by `*`."""

    id: str
    digest: bytes
    name: str
    scopes: frozenset[str]
    accounts: str | None
    created_at: datetime
    revoked_at: datetime | None
    actor: str
    """Who an entry says has acted: `key:<id>`."""

    def covers(self, account: str) -> bool:
        """May this key see that account at all?"""
        allowed = self.accounts
        if allowed is None:
            return True
        if allowed.endswith("*"):
            return account.startswith(allowed[:-1])
        return account == allowed


def _api_key(row: Any) -> ApiKey:
    return ApiKey(
        id=row["id"],
        digest=row["digest"],
        name=row["name"],
        scopes=frozenset(row["scopes"]),
        accounts=row["accounts"],
        created_at=row["created_at"],
        revoked_at=row["revoked_at"],
        actor=f"key:{row['id']}",
    )


# ── what an operator does ────────────────────────────────────────────────────────────────────────


async def create(
    pool: Pool,
    name: str,
    scopes: Iterable[str],
    accounts: str | None = None,
    *,
    by: Caller = SYSTEM,
) -> tuple[ApiKey, str]:
    """Make a key, which the audit says. Returns it with its word, which nobody can learn again.

    Raises InvalidRequest for a name, a scope or an account pattern that is none, StoreUnavailable.
    """
    wanted = sorted(set(scopes))
    if not 1 <= len(name) <= 128:
        raise InvalidRequest.of_field("name", "must be 1 to 128 characters")
    if not wanted or not set(wanted) <= set(SCOPES):
        raise InvalidRequest.of_field("scopes", f"must be one or more of {', '.join(SCOPES)}")
    if accounts is not None and not re.fullmatch(ACCOUNTS_PATTERN, accounts):
        raise InvalidRequest.of_field("accounts", "must be an account, or a beginning and '*'")
    key_id = "".join(secrets.choice(_ID_SIGNS) for _ in range(_ID_LENGTH))
    token = f"hf_{key_id}_{secrets.token_urlsafe(32)}"
    digest = sha256(token.encode()).digest()
    async with pool.acquire() as conn, conn.transaction():
        row = await conn.fetchrow(sql("insert_api_key"), key_id, digest, name, wanted, accounts)
        await audit.record_as(
            by,
            conn,
            action="api_key.create",
            subject=f"api_key:{key_id}",
            after={"name": name, "scopes": wanted, "accounts": accounts},
        )
    log("api_key_made", key=key_id, scopes=wanted, accounts=accounts)
    return _api_key(row), token


async def page(pool: Pool, after: str = "", limit: int = 100) -> list[ApiKey]:
    """Keys by id, those after `after`, revoked ones too. Raises StoreUnavailable."""
    return [_api_key(row) for row in await pool.fetch(sql("list_api_keys"), after, limit)]


async def revoke(pool: Pool, key_id: str, *, by: Caller = SYSTEM) -> ApiKey:
    """End a key for good, which the audit says; every process refuses it within a minute.

    Raises NotFound, StoreUnavailable.
    """
    async with pool.acquire() as conn, conn.transaction():
        row = await conn.fetchrow(sql("revoke_api_key"), key_id)
        if row is None:
            raise NotFound(f"there is no API key {key_id!r}")
        if row["ended"]:
            await audit.record_as(
                by,
                conn,
                action="api_key.revoke",
                subject=f"api_key:{key_id}",
                before={"name": row["name"]},
            )
    log("api_key_revoked", key=key_id)
    return _api_key(row)


# ── what every call does ─────────────────────────────────────────────────────────────────────────


class ApiKeys:
    """The keys that one process has seen. `cache_s` is how long one is good without a check."""

    def __init__(
        self, pool: Pool, cache_s: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool = pool
        self._cache_s = cache_s
        self._clock = clock
        self._known: dict[str, ApiKey] = {}
        self._checked: dict[str, float] = {}
        self._unknown: dict[str, float] = {}
        self._asked: dict[str, asyncio.Future[None]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to check what is cached, in the background."""
        self._checking = asyncio.create_task(self._check_for_ever())

    async def close(self) -> None:
        tasks = [task for task in (self._checking, self._asking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for asked in self._asked.values():  # of a task that was cancelled before it ran
            asked.cancel()
        self._asked.clear()

    def known(self, token: bytes) -> ApiKey | None:
        """The cached key of `token`, or None. This is all that most calls need."""
        key = self._known.get(token[3 : 3 + _ID_LENGTH].decode("latin-1"))
        if key is not None and compare_digest(sha256(token).digest(), key.digest):
            return key
        return None

    async def find(self, token: bytes) -> ApiKey:
        """The key of `token`, asked of Postgres if need be.

        Raises Unauthenticated, StoreUnavailable.
        """
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise Unauthenticated("the API key is not of the form hf_<id>_<secret>")
        key_id = match.group(1).decode()
        if key_id not in self._known and self._clock() >= self._unknown.get(key_id, 0.0):
            await self._ask(key_id)
        key = self.known(token)
        if key is None:
            raise Unauthenticated("the API key is unknown or revoked")
        return key

    async def _ask(self, key_id: str) -> None:
        """Wait until Postgres was asked for `key_id`; calls that come meanwhile share a query."""
        asked = self._asked.get(key_id)
        if asked is None:
            asked = self._asked[key_id] = asyncio.get_running_loop().create_future()
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_for_all())
        await asyncio.shield(asked)

    async def _ask_for_all(self) -> None:
        """One query after the other, so that wrong keys never take more than one connection."""
        try:
            while self._asked:
                ids = list(self._asked)[:_MAX_ASKED]
                futures = [self._asked.pop(key_id) for key_id in ids]
                try:
                    await self._read(ids)
                except asyncio.CancelledError:
                    for future in futures:
                        future.cancel()
                    raise
                except Exception as error:
                    for future in futures:
                        future.set_exception(error)
                        future.exception()  # a caller that has gone no longer looks
                else:
                    for future in futures:
                        future.set_result(None)
        finally:
            self._asking = None

    async def _read(self, ids: list[str]) -> None:
        """Bring what is cached of these ids up to what Postgres has."""
        rows = await self._pool.fetch(sql("find_api_keys"), ids)
        now = self._clock()
        found = {row["id"]: _api_key(row) for row in rows}
        for key_id in ids:
            key = found.get(key_id)
            if key is None:
                self._forget(key_id)
                self._unknown[key_id] = now + _UNKNOWN_S
                continue
            self._unknown.pop(key_id, None)
            self._known[key_id] = key
            self._checked[key_id] = now
        while len(self._known) > _MAX_CACHED:
            oldest = next(iter(self._known))
            del self._known[oldest], self._checked[oldest]
        while len(self._unknown) > _MAX_UNKNOWN:
            del self._unknown[next(iter(self._unknown))]

    def _forget(self, key_id: str) -> None:
        if self._known.pop(key_id, None) is not None:
            del self._checked[key_id]
            log("api_key_dropped", key=key_id)

    async def check(self) -> bool:
        """Compare all that is cached with Postgres; False where Postgres could not be asked."""
        ids = list(self._known)
        try:
            for i in range(0, len(ids), _MAX_ASKED):
                await self._read(ids[i : i + _MAX_ASKED])
        except StoreUnavailable as error:
            log("api_keys_not_checked", cause=error.detail, keys=len(ids))
            return False
        finally:
            outdated = self._clock() - self._cache_s
            for key_id in [each for each, at in self._checked.items() if at < outdated]:
                self._forget(key_id)
        return True

    async def _check_for_ever(self) -> None:
        pause_s = _CHECK_S
        while True:
            # Not later than a key may go unchecked, or `cache_s` would not be kept.
            await asyncio.sleep(min(pause_s, self._cache_s))
            try:
                pause_s = _CHECK_S if await self.check() else _RETRY_S
            except Exception as error:  # revoked keys must not go on because of one bad answer
                log("api_keys_not_checked", cause=repr(error), keys=len(self._known))
                pause_s = _RETRY_S
