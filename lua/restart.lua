#!lua
-- PURPOSE  start a rebuilt shard at the journal's mark, with the deadlines of its cold accounts
-- KEYS     meta lease:new lease:finish stream due
-- ARGV     mark chain last (account next_due)...
-- RETURNS  count
-- CODES    OK MALFORMED FENCED STALE BUSY
-- APPENDS  nothing
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/text.lua
-- include: lib/nonce.lua

local mark = int(ARGV[1])
if not mark then return {MALFORMED, 1} end
if ARGV[3] ~= '0' and ARGV[3] ~= '1' then return {MALFORMED, 3} end
for i = 5, #ARGV, 2 do
  if not int(ARGV[i]) then return {MALFORMED, i} end
end
local meta = redis.call('HMGET', KEYS[1], 'nonce', 'remnant')
if meta[1] ~= NONCE then return {FENCED} end
-- The journal had more when the keys were deleted: Postgres went back.
if mark < stored(meta[2]) then return {STALE} end
if redis.call('EXISTS', KEYS[2], KEYS[3]) > 0 then return {BUSY} end
if redis.call('XLEN', KEYS[4]) > 0 then return {BUSY} end
for i = 4, #ARGV, 2 do redis.call('ZADD', KEYS[5], ARGV[i + 1], ARGV[i]) end
redis.call('HSET', KEYS[1], 'seq', text(mark), 'settled', text(mark), 'last_evict_seq', text(mark),
  'chain', ARGV[2])
-- Whole again with the last part only.
if ARGV[3] == '1' then redis.call('HDEL', KEYS[1], 'remnant', 'ahead_ms') end
return {OK, (#ARGV - 3) / 2}
