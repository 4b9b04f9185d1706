#!lua
-- PURPOSE  start a rebuilt shard at the journal's mark, with the deadlines of its cold accounts
-- KEYS     meta lease:new lease:finish stream due
-- ARGV     mark chain (account next_due)...
-- RETURNS  count
-- CODES    OK MALFORMED FENCED BUSY
-- APPENDS  nothing
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/nonce.lua

local mark = int(ARGV[1])
if not mark then return {MALFORMED, 1} end
for i = 4, #ARGV, 2 do
  if not int(ARGV[i]) then return {MALFORMED, i} end
end
if redis.call('HGET', KEYS[1], 'nonce') ~= NONCE then return {FENCED} end
if redis.call('EXISTS', KEYS[2], KEYS[3]) > 0 then return {BUSY} end
if redis.call('XLEN', KEYS[4]) > 0 then return {BUSY} end
for i = 3, #ARGV, 2 do redis.call('ZADD', KEYS[5], ARGV[i + 1], ARGV[i]) end
redis.call('HSET', KEYS[1], 'seq', text(mark), 'settled', text(mark), 'last_evict_seq', text(mark),
  'chain', ARGV[2])
return {OK, (#ARGV - 2) / 2}
