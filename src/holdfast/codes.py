"""Return codes of the scripts, in the order in which they are decided.

One table serves three readers: the scripts (`lua/lib/codes.lua`, compared by a test), the ledger
(which code is an answer, which asks for another step, which is a refusal) and the docs.
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """What a script answers first. OK and REPLAY are answers; everything else changed nothing."""

    OK = 0
    REPLAY = 1
    MALFORMED = 10
    FENCED = 20
    NO_FINISH = 21
    CLOCK = 22
    FULL = 23
    MISS = 30
    MISS_KEY = 31
    MISS_RECORD = 32
    EXISTS = 33
    STALE = 34
    REUSED = 40
    NO_NEW = 50
    BACKLOG = 51
    FROZEN = 60
    CLOSED = 61
    HOLD_COMMITTED = 70
    HOLD_RELEASED = 71
    HOLD_EXPIRED = 72
    HOLD_OPEN = 73
    KEYS_FULL = 74
    DUE = 80
    LIMIT = 90
    AMOUNT_LIMIT = 91
    REFUND_EXCEEDS = 92
    FUNDS = 100
    COMMIT_FUNDS = 101
    NOT_ZERO = 110
    BUSY = 111


# The number behind LIMIT: which limit denied (lua/lib/limits.lua).
LIMITS: dict[int, str] = {
    1: "max_hold",
    2: "daily_limit",
    3: "monthly_limit",
    4: "max_open_holds",
    5: "member.max_hold",
    6: "member.daily_limit",
    7: "member.monthly_limit",
    8: "models",
}
