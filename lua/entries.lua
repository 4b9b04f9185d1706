#!lua flags=no-writes
-- PURPOSE  read unsettled entries, in order
-- KEYS     meta lease:new lease:finish stream
-- ARGV     after limit
-- RETURNS  entries
-- CODES    OK MALFORMED FENCED
-- APPENDS  nothing
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/text.lua
-- include: lib/nonce.lua

local after, limit = int(ARGV[1]), int(ARGV[2])
if not after then return {MALFORMED, 1} end
if not limit or limit < 1 then return {MALFORMED, 2} end
local meta = redis.call('HMGET', KEYS[1], 'nonce', 'seq', 'settled')
if meta[1] ~= NONCE then return {FENCED} end
local found = redis.call('XRANGE', KEYS[4], '(' .. text(after) .. '-0', '+', 'COUNT', limit)
return {OK, stored(meta[2]), stored(meta[3]), found}
