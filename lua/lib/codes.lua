-- The return codes, lowest first in the order in which they are decided. holdfast/codes.py holds
-- the same table; a test compares them. 0 and 1 are answers, everything else changed nothing.
local OK, REPLAY = 0, 1
local MALFORMED = 10
local FENCED, NO_FINISH, CLOCK, FULL = 20, 21, 22, 23
local MISS, MISS_KEY, MISS_RECORD, EXISTS, STALE = 30, 31, 32, 33, 34
local REUSED = 40
local NO_NEW, BACKLOG = 50, 51
local FROZEN, CLOSED = 60, 61
local HOLD_COMMITTED, HOLD_RELEASED, HOLD_EXPIRED, HOLD_OPEN, KEYS_FULL = 70, 71, 72, 73, 74
local DUE = 80
local LIMIT, AMOUNT_LIMIT, REFUND_EXCEEDS = 90, 91, 92
local FUNDS, COMMIT_FUNDS = 100, 101
local NOT_ZERO, BUSY = 110, 111
