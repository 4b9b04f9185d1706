#!lua
-- PURPOSE  make a cold account live again: the last step of a load, after its parts
-- KEYS     meta lease:new lease:finish stream due acct open members
-- ARGV     account mark complete next_due field value...
-- RETURNS  count
-- CODES    OK MALFORMED FENCED NO_FINISH CLOCK FULL EXISTS STALE
-- APPENDS  nothing
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/text.lua
-- include: lib/nonce.lua
-- include: lib/next_due.lua

local mark, next_due = int(ARGV[2]), int(ARGV[4])
if not mark then return {MALFORMED, 2} end
if ARGV[4] ~= '' and not next_due then return {MALFORMED, 4} end
if #ARGV < 6 or #ARGV % 2 ~= 0 then return {MALFORMED, 5} end

-- include: lib/clock.lua
-- include: lib/fence.lua
if redis.call('EXISTS', KEYS[6]) == 1 then return {EXISTS} end
-- Something was evicted after this reader looked: it may bring an older balance.
if mark < stored(redis.call('HGET', KEYS[1], 'last_evict_seq')) then return {STALE} end

local fields = {'loaded_at', text(now), 'load_mark', text(mark), 'complete', ARGV[3]}
for i = 5, #ARGV do fields[#fields + 1] = ARGV[i] end
if next_due then note_deadline(next_due) end
redis.call('HSET', KEYS[6], unpack(fields))
return {OK, 1}
