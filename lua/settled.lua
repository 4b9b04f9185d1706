#!lua flags=allow-oom
-- PURPOSE  note how far the journal has this shard
-- KEYS     meta
-- ARGV     mark
-- RETURNS  count
-- CODES    OK MALFORMED FENCED
-- APPENDS  nothing
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/text.lua
-- include: lib/nonce.lua

local mark = int(ARGV[1])
if not mark then return {MALFORMED, 1} end
local meta = redis.call('HMGET', KEYS[1], 'nonce', 'settled', 'seq')
if meta[1] ~= NONCE then return {FENCED} end
if mark > stored(meta[3]) then return {MALFORMED, 1} end
if mark > stored(meta[2]) then redis.call('HSET', KEYS[1], 'settled', text(mark)) end
return {OK, math.max(mark, stored(meta[2]))}
