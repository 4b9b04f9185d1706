#!lua flags=allow-oom
-- PURPOSE  drop settled entries below a sequence number from the stream
-- KEYS     meta lease:new lease:finish stream
-- ARGV     keep_from limit
-- RETURNS  count
-- CODES    OK MALFORMED FENCED
-- APPENDS  nothing
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/text.lua
-- include: lib/nonce.lua

local keep_from, limit = int(ARGV[1]), int(ARGV[2])
if not keep_from then return {MALFORMED, 1} end
if not limit then return {MALFORMED, 2} end
local meta = redis.call('HMGET', KEYS[1], 'nonce', 'settled')
if meta[1] ~= NONCE then return {FENCED} end
if keep_from > stored(meta[2]) + 1 then return {MALFORMED, 1} end
local gone = redis.call('XTRIM', KEYS[4], 'MINID', '~', text(keep_from) .. '-0', 'LIMIT', limit)
return {OK, gone}
