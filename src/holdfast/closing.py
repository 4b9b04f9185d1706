"""Closing an account: only when nothing is left in it, or with what is left written off.

    read ─▶ holds open, or a balance and no write-off ─▶ refused, naming what is left
      └──▶ freeze ─▶ adjust to zero ─▶ close          (the first two only with a write-off)

Each step is a transition of its own, safe by itself: the script that closes refuses an account with
anything in it, and the adjustment's key names the version that was read, so that one balance is
written off once. Whoever was cut off in between finds the account frozen, and calls again.
"""

from __future__ import annotations

from typing import Final

from holdfast.decisions import Level
from holdfast.errors import Conflict, InsufficientCredits, InvalidRequest, KeyReused
from holdfast.ledger import Ledger
from holdfast.model import Account, Context

# Of two steps each: read and adjust, read and close. A frozen account is changed by grants and
# refunds alone; who meets more of them than this is told what is left.
_ROUNDS: Final = 6


async def close_account(
    ledger: Ledger,
    account: str,
    *,
    write_off: bool,
    reason: str,
    context: Context,
    durability: Level | None = None,
) -> Account:
    """Close the account for good; one that is closed is answered as it is.

    Raises Conflict (`account_not_empty`) with what is left; NotFound, Unavailable.
    """
    context.reason = reason or None
    found = await ledger.get_account(account)
    if found.status == "closed":
        return found
    if _holds(found) or (found.available and not write_off):
        raise _not_empty(found)
    # Nothing new may begin between the write-off and the end.
    froze = write_off and found.status == "active"
    if froze:
        await ledger.put_account(account, {"status": "frozen"}, context=context)
    for _ in range(_ROUNDS):
        found = await ledger.get_account(account)
        if found.status == "closed":
            return found
        if _holds(found) or (found.available and not write_off):
            break
        if found.available:
            await _write_off(ledger, found, reason, context)
            continue
        try:
            return await ledger.put_account(
                account, {"status": "closed"}, context=context, durability=durability
            )
        except InvalidRequest:
            continue  # something came in after the read
    if froze:
        await ledger.put_account(account, {"status": "active"}, context=context)
    raise _not_empty(found)


async def _write_off(ledger: Ledger, found: Account, reason: str, context: Context) -> None:
    """Bring the balance that was read to zero, or change nothing where it has moved."""
    try:
        await ledger.adjust(
            found.account,
            f"close:{found.version}",
            amount=-found.available,
            reason=reason,
            context=context,
        )
    except (InsufficientCredits, KeyReused):
        return  # it is less by now, or another call wrote this very balance off


def _holds(found: Account) -> bool:
    return found.held != 0 or found.open_holds != 0


def _not_empty(found: Account) -> Conflict:
    left = {
        "available": found.available,
        "held": found.held,
        "debt": found.debt,
        "open_holds": found.open_holds,
    }
    names = ", ".join(name for name, value in left.items() if value)
    return Conflict(
        f"the account is not empty: {names}; end its holds, and write off or use up the balance",
        code="account_not_empty",
        **left,
    )
