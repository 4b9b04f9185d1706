#!lua flags=no-writes
-- PURPOSE  name the accounts of a shard that have something due
-- KEYS     meta lease:new lease:finish stream due
-- ARGV     limit
-- RETURNS  names
-- CODES    OK MALFORMED FENCED
-- APPENDS  nothing
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/text.lua
-- include: lib/nonce.lua

local limit = int(ARGV[1])
if not limit or limit < 1 then return {MALFORMED, 1} end
if redis.call('HGET', KEYS[1], 'nonce') ~= NONCE then return {FENCED} end
-- include: lib/clock.lua
local names = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', text(now), 'LIMIT', 0,
  math.min(limit, 1000))
return {OK, unpack(names)}
