#!lua
-- PURPOSE  bring records, open holds and members of a cold account, or one missing record, from the journal
-- KEYS     meta lease:new lease:finish stream due acct open members record...
-- ARGV     account mark part opens members records (id deadline)... (field value)... (expire_at fields (field value)...)...
-- RETURNS  count
-- CODES    OK MALFORMED FENCED NO_FINISH CLOCK FULL EXISTS STALE
-- APPENDS  nothing
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/nonce.lua

-- `part`: "first" clears what an earlier loader left, "more" adds to it, "record" brings a closed
-- record to an account that is there already.
local mark, part = int(ARGV[2]), ARGV[3]
local opens, members, records = int(ARGV[4]), int(ARGV[5]), int(ARGV[6])
local MAX_PART = 200 -- items in one part: bounds the script
if not mark then return {MALFORMED, 2} end
if not opens or not members or not records or opens + members + records > MAX_PART
  or #KEYS ~= 8 + records then
  return {MALFORMED, 4}
end

-- include: lib/clock.lua
-- include: lib/fence.lua
local acct = redis.call('HMGET', KEYS[6], 'version', 'load_mark', 'last_refund_seq')
if part == 'record' then
  -- A refund that the reader did not see would be paid twice.
  if not acct[1] or mark < stored(acct[2]) or mark < stored(acct[3]) then return {STALE} end
  if redis.call('EXISTS', KEYS[9]) == 1 then return {EXISTS} end
else
  if acct[1] then return {EXISTS} end
  if mark < stored(redis.call('HGET', KEYS[1], 'last_evict_seq')) then return {STALE} end
end
if part == 'first' then redis.call('DEL', KEYS[7], KEYS[8]) end

local at = 7
for _ = 1, opens do
  redis.call('ZADD', KEYS[7], ARGV[at + 1], ARGV[at])
  at = at + 2
end
for _ = 1, members do
  redis.call('HSET', KEYS[8], ARGV[at], ARGV[at + 1])
  at = at + 2
end
for i = 1, records do
  local expire_at, fields, key = ARGV[at], int(ARGV[at + 1]), KEYS[8 + i]
  local pairs_list = {}
  for j = at + 2, at + 1 + 2 * fields do pairs_list[#pairs_list + 1] = ARGV[j] end
  redis.call('DEL', key)
  redis.call('HSET', key, unpack(pairs_list))
  if expire_at ~= '' then redis.call('PEXPIREAT', key, expire_at) end
  at = at + 2 + 2 * fields
end
return {OK, records}
