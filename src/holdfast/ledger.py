"""The ledger: a method for every transition of an account, each decided by one script in Redis.

    caller ──▶ Ledger.reserve ──▶ lua/reserve.lua ──▶ answer, and the entry in the stream

A method turns the request into the script's arguments and the answer into a result; how one call
is decided (cold accounts, due holds, refusals) is in `decisions.py`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

from holdfast import replies
from holdfast.arguments import (
    as_json,
    check,
    context_text,
    given,
    or_empty,
    setting,
    usage_of,
)
from holdfast.codes import Code
from holdfast.config import Config
from holdfast.decisions import ROUNDS, Decisions, Level, open_decisions
from holdfast.errors import InvalidRequest, KeyMissing, OverloadedError, UnknownAccount
from holdfast.keys import fingerprint
from holdfast.model import (
    MAX_AMOUNT,
    Account,
    Context,
    Hold,
    Member,
    Movement,
    OnShortfall,
    Receipt,
)
from holdfast.shards import Argument
from holdfast.survey import ShardView, survey

DEFAULT_TTL_S = 900


async def open_ledger(config: Config) -> Ledger:
    """A ledger over the stores that `config` names; it starts closed if they are away.

    Raises StoreUnavailable where a URL is missing.
    """
    return Ledger(await open_decisions(config))


class Ledger:
    """All accounts of one holdfast. Amounts are microcredits; errors are those of `errors.py`."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions
        self.shards = decisions.shards
        self.pool = decisions.pool
        self.window_ms = decisions.window_ms
        self._decide = decisions.decide
        self._read = decisions.read

    async def close(self) -> None:
        await self._decisions.close()

    async def survey(self) -> list[ShardView]:
        """How every shard stands now, as this process sees it."""
        now_ms = int(time.time() * 1000)
        return await survey(self.shards, self._decisions.gates, now_ms)

    # ── holds ────────────────────────────────────────────────────────────────────────────────────

    async def reserve(
        self,
        account: str,
        key: str,
        *,
        amount: int,
        min_amount: int | None = None,
        ttl_seconds: int | None = None,
        member: str | None = None,
        model: str | None = None,
        metadata: dict[str, Any] | None = None,
        context: Context,
        durability: Level | None = None,
    ) -> Hold:
        """Set `amount` aside, or what is available if that is at least `min_amount`.

        What it is for, `model`, stays with the hold: its end counts as use of that model too.

        Raises InsufficientCredits, LimitExceeded, Conflict, KeyReused, NotFound, Unavailable.
        """
        sent = {
            "amount": amount,
            "min_amount": min_amount,
            "ttl_seconds": ttl_seconds,
            "member": member,
            "usage": usage_of(model),
        }
        check(sent, required="amount", account=account, key=key, member=member)
        args: list[Argument] = [
            account,
            context_text(context, metadata),
            amount,
            or_empty(min_amount),
            (ttl_seconds or DEFAULT_TTL_S) * 1000,
            member or "",
            fingerprint("hold", sent),
            self.window_ms,
            "",
            as_json(metadata),
            key,
        ]
        if model is not None:
            args.append(model)
        reply = await self._decide("reserve", account, key, args, absent_at=8)
        return await self._hold(account, key, reply, durability)

    async def extend(
        self,
        account: str,
        hold: str,
        *,
        key: str | None = None,
        ttl_seconds: int | None = None,
        add_amount: int | None = None,
        context: Context,
        durability: Level | None = None,
    ) -> Hold:
        """Move the deadline to now + ttl if that is later, and set `add_amount` more aside.

        `add_amount` needs a key. Declined, it leaves the hold as it was. Raises as reserve does,
        and Conflict where the hold has ended.
        """
        sent = {"ttl_seconds": ttl_seconds, "add_amount": add_amount}
        check(sent, account=account, hold=hold, key=key)
        if add_amount is not None and key is None:
            raise KeyMissing("an increase needs an Idempotency-Key, so that a retry adds nothing")
        ttl_ms: Argument = "" if ttl_seconds is None else ttl_seconds * 1000
        args: list[Argument] = [
            account,
            context_text(context),
            ttl_ms,
            or_empty(add_amount),
            key or "",
        ]
        args += [fingerprint("extend", sent), hold]
        reply = await self._decide("extend", account, hold, args)
        return await self._hold(account, hold, reply, durability)

    async def commit(
        self,
        account: str,
        hold: str,
        *,
        key: str | None = None,
        amount: int | None = None,
        on_shortfall: OnShortfall | None = None,
        final: bool | None = None,
        context: Context,
        durability: Level | None = None,
    ) -> Hold:
        """Take `amount` (default: all of the hold) and return the rest, unless `final` is False.

        Raises CommitExceedsFunds under on_shortfall `reject`, Conflict, KeyReused, NotFound.
        """
        sent = {"amount": amount, "on_shortfall": on_shortfall, "final": final}
        check(sent, lowest_amount=0, account=account, hold=hold, key=key)
        if final is False and key is None:
            raise KeyMissing(
                "a partial commit needs an Idempotency-Key, so that a retry takes nothing"
            )
        args: list[Argument] = [
            account,
            context_text(context),
            or_empty(amount),
            on_shortfall or "reject",
            "0" if final is False else "1",
            key or "",
            fingerprint("commit", sent),
            self.window_ms,
            hold,
        ]
        reply = await self._decide("commit", account, hold, args)
        return await self._hold(account, hold, reply, durability)

    async def release(
        self,
        account: str,
        hold: str,
        *,
        key: str | None = None,
        reason: str | None = None,
        context: Context,
        durability: Level | None = None,
    ) -> Hold:
        """Return what is left of a hold. An expired one has nothing left: answered as it is."""
        print_ = fingerprint("release", {"reason": reason})
        check({}, account=account, hold=hold, key=key)
        args: list[Argument] = [
            account,
            context_text(context),
            key or "",
            print_,
            self.window_ms,
            hold,
        ]
        reply = await self._decide("release", account, hold, args)
        return await self._hold(account, hold, reply, durability)

    async def get_hold(self, account: str, hold: str) -> Hold:
        """A hold as it is now; one that is due is expired first, where that is possible."""
        check({}, account=account, hold=hold)
        reply, stale = await self._read("hold", account, hold, [account, hold, ""])
        answer = replies.hold(self.shards.number_of(account), account, hold, reply)
        answer.stale = stale
        return answer

    # ── movements ────────────────────────────────────────────────────────────────────────────────

    async def charge(
        self,
        account: str,
        key: str,
        *,
        amount: int,
        on_shortfall: OnShortfall | None = None,
        member: str | None = None,
        model: str | None = None,
        metadata: dict[str, Any] | None = None,
        context: Context,
        durability: Level | None = None,
    ) -> Movement:
        """Take `amount` at once, for work that is done or priced. Raises as reserve does."""
        sent = {
            "amount": amount,
            "on_shortfall": on_shortfall,
            "member": member,
            "usage": usage_of(model),
        }
        check(sent, required="amount", account=account, key=key, member=member)
        args: list[Argument] = [
            account,
            context_text(context, metadata),
            amount,
            on_shortfall or "reject",
        ]
        args += [member or "", fingerprint("charge", sent), self.window_ms, "", as_json(metadata)]
        args += [key] if model is None else [key, model]
        reply = await self._decide("charge", account, key, args, absent_at=7)
        return await self._movement(account, key, "charge", reply, durability)

    async def refund(
        self,
        account: str,
        key: str,
        *,
        of: str,
        amount: int | None = None,
        metadata: dict[str, Any] | None = None,
        context: Context,
        durability: Level | None = None,
        owed: bool = False,
    ) -> Movement:
        """Give back `amount` (default: all that is left) of what hold or charge `of` took.

        `owed`: it comes out of Postgres, and is applied once however late it is repeated.

        Raises RefundExceeds, Conflict (the hold is open), NotFound, KeyReused.
        """
        sent = {"of": of, "amount": amount}
        check(sent, account=account, key=key, of=of)
        print_ = fingerprint("refund", sent)
        args: list[Argument] = [account, context_text(context, metadata), or_empty(amount), print_]
        args += [self.window_ms, "", as_json(metadata), key, of, int(owed)]
        reply = await self._decide("refund", account, key, args, absent_at=5, target=of)
        return await self._movement(account, key, "refund", reply, durability)

    async def grant(
        self,
        account: str,
        key: str,
        *,
        amount: int,
        source: str | None = None,
        priority: int | None = None,
        expires_ms: int | None = None,
        expires_at: str | None = None,
        metadata: dict[str, Any] | None = None,
        context: Context,
        durability: Level | None = None,
        owed: bool = False,
    ) -> Movement:
        """Put credits in; debt is paid first. `expires_at` is the expiry as the caller wrote it.

        `owed`: it comes out of Postgres, and is applied once however late it is repeated.
        """
        expires: Argument | None = expires_at if expires_at is not None else expires_ms
        sent = {"amount": amount, "source": source, "priority": priority, "expires_at": expires}
        check(sent, required="amount", account=account, key=key)
        args: list[Argument] = [
            account,
            context_text(context, metadata),
            amount,
            priority or 0,
            or_empty(expires_ms),
        ]
        args += [source or "adjustment", fingerprint("grant", sent), self.window_ms, ""]
        args += [as_json(metadata), key, int(owed)]
        reply = await self._decide("grant", account, key, args, absent_at=8)
        return await self._movement(account, key, "grant", reply, durability)

    async def adjust(
        self,
        account: str,
        key: str,
        *,
        amount: int,
        reason: str,
        metadata: dict[str, Any] | None = None,
        context: Context,
        durability: Level | None = None,
        owed: bool = False,
        on_shortfall: Literal["reject", "debt"] = "reject",
    ) -> Movement:
        """Correct an account by a signed amount; `owed` as for a grant.

        Raises InsufficientCredits below zero, unless `on_shortfall` makes a debt of what lacks.
        """
        context.reason = reason
        sent = {"amount": amount, "reason": reason}
        check(sent, lowest_amount=-MAX_AMOUNT, required="amount", account=account, key=key)
        if amount == 0:
            raise InvalidRequest.of_field("amount", "must not be 0")
        print_ = fingerprint("adjust", sent)
        args: list[Argument] = [
            account,
            context_text(context, metadata),
            amount,
            print_,
            self.window_ms,
            "",
        ]
        args += [as_json(metadata), key, int(owed), on_shortfall]
        reply = await self._decide("adjust", account, key, args, absent_at=5)
        return await self._movement(account, key, "adjust", reply, durability)

    # ── accounts ─────────────────────────────────────────────────────────────────────────────────

    async def put_account(
        self,
        account: str,
        settings: Mapping[str, Any],
        *,
        context: Context,
        durability: Level | None = None,
    ) -> Account:
        """Open an account, or change the settings given; None clears one."""
        check({}, account=account)
        pairs: list[Argument] = []
        for name, value in settings.items():
            pairs += [name, setting(name, value)]
        words = context_text(context)
        reply, created = None, False
        for _ in range(ROUNDS):
            try:
                reply = await self._decide("settings", account, None, [account, words, *pairs])
                break
            except UnknownAccount as unknown:
                # Unknown to both stores at this mark: the script refuses where that has changed.
                args = [account, words, unknown.mark, *given(pairs)]
                reply = await self._open(account, args)
                created = reply is not None
                if created:
                    break
        if reply is None:
            raise OverloadedError("the account is being opened and loaded at the same time")
        answer = await self.get_account(account)
        answer.created = created
        answer.receipt = Receipt(
            self.shards.number_of(account), reply[1], reply[2].decode(), answer.version
        )
        answer.durability = await self._decisions.promise(account, answer.receipt, durability)
        return answer

    async def _open(self, account: str, args: list[Argument]) -> list[Any] | None:
        """Open an account; None where it exists by now or the absence is out of date."""
        number = self.shards.number_of(account)
        reply = await self._decisions.call(
            number, "open", self.shards.keys[number].of_account(account), args
        )
        code = Code(reply[0])
        if code in (Code.EXISTS, Code.STALE):
            return None
        if code is not Code.OK:
            raise replies.refusal("open", code, reply[1:])
        return reply

    async def get_account(self, account: str) -> Account:
        """An account as it is now; `stale` where something due could not be expired first."""
        check({}, account=account)
        reply, stale = await self._read("account", account, None, [account, "", ""])
        answer = replies.account(account, reply[5], reply[2], (reply[3], reply[4]))
        answer.stale = stale
        return answer

    async def put_member(
        self,
        account: str,
        member: str,
        limits: Mapping[str, int | None],
        *,
        context: Context,
        durability: Level | None = None,
    ) -> Member:
        """Change the limits given (daily_limit, monthly_limit, max_hold); None takes one away."""
        check(limits, account=account, member=member)
        wanted = [
            or_empty(limits[name]) if name in limits else "="
            for name in ("daily_limit", "monthly_limit", "max_hold")
        ]
        args: list[Argument] = [account, context_text(context), member, *wanted]
        reply = await self._decide("member", account, None, args)
        answer = replies.member(account, member, reply[2], (reply[3], reply[4]))
        answer.created = reply[1] == 1
        answer.receipt = Receipt(self.shards.number_of(account), reply[5], reply[6].decode(), 0)
        answer.durability = await self._decisions.promise(account, answer.receipt, durability)
        return answer

    async def get_member(self, account: str, member: str) -> Member:
        """Limits and use of a member; one that was never named has neither."""
        check({}, account=account, member=member)
        args: list[Argument] = [account, member, ""]
        reply, stale = await self._read("account", account, None, args)
        answer = replies.member(account, member, reply[6], (reply[7], reply[8]))
        answer.stale = stale
        return answer

    # ── answers ──────────────────────────────────────────────────────────────────────────────────

    async def _hold(self, account: str, key: str, reply: list[Any], level: Level | None) -> Hold:
        answer = replies.hold(self.shards.number_of(account), account, key, reply)
        answer.durability = await self._decisions.promise(account, answer.receipt, level)
        return answer

    async def _movement(
        self, account: str, key: str, kind: str, reply: list[Any], level: Level | None
    ) -> Movement:
        answer = replies.movement(self.shards.number_of(account), account, key, kind, reply)
        answer.durability = await self._decisions.promise(account, answer.receipt, level)
        return answer
