#!lua flags=allow-oom
-- PURPOSE  drop an idle account from Redis; the journal has all of it
-- KEYS     meta lease:new lease:finish stream due acct open members
-- ARGV     account
-- RETURNS  count
-- CODES    OK FENCED NO_FINISH CLOCK FULL MISS BUSY
-- APPENDS  nothing
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/text.lua
-- include: lib/nonce.lua

-- include: lib/clock.lua
-- include: lib/fence.lua
local fields = redis.call('HMGET', KEYS[6], 'version', 'last_seq', 'grants')
if not fields[1] then return {MISS} end
local last_seq = stored(fields[2])
if redis.call('ZCARD', KEYS[7]) > 0 or last_seq > meta.settled then return {BUSY} end

local evicted = math.max(stored(redis.call('HGET', KEYS[1], 'last_evict_seq')), last_seq)
redis.call('HSET', KEYS[1], 'last_evict_seq', text(evicted))
redis.call('DEL', KEYS[6], KEYS[7], KEYS[8])
-- A cold account with a grant that will expire stays in `due`: the sweeper loads it then.
if stored(fields[3]) == 0 then redis.call('ZREM', KEYS[5], ARGV[1]) end
return {OK, 1}
