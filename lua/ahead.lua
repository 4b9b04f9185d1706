#!lua flags=allow-oom
-- PURPOSE  note that this Redis's clock was ahead: the shard is rebuilt before it serves again
-- KEYS     meta lease:new lease:finish
-- ARGV     told_ms
-- RETURNS  count
-- CODES    OK MALFORMED
-- APPENDS  nothing
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/text.lua

-- Like `raise`, it is needed where no generation has scripts yet, so it has no nonce. It can only
-- close: at worst a shard is rebuilt once more than it had to be.
local told = int(ARGV[1])
if not told then return {MALFORMED, 1} end
-- A shard that never was in this Redis has no record here that could have gone.
if redis.call('HEXISTS', KEYS[1], 'generation') == 0 then return {OK, 0} end
redis.call('HSET', KEYS[1], 'ahead_ms', text(told))
redis.call('DEL', KEYS[2], KEYS[3])
return {OK, 1}
