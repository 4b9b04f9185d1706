#!lua flags=no-writes
-- PURPOSE  read a hold; one that is past its deadline is said to be due
-- KEYS     meta lease:new lease:finish stream due acct open members record
-- ARGV     account key even_if_due
-- RETURNS  hold
-- CODES    OK FENCED MISS MISS_RECORD DUE
-- APPENDS  nothing
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/pairs.lua
-- include: lib/nonce.lua
-- include: lib/hold.lua
-- include: lib/hold_now.lua

if redis.call('HGET', KEYS[1], 'nonce') ~= NONCE then return {FENCED} end
local fields = read_hash(KEYS[6])
if not fields then return {MISS} end
local rec = read_hash(KEYS[9])
if not rec then return {MISS_RECORD} end
if rec.kind ~= 'hold' then return {MISS_RECORD, 1} end
-- include: lib/clock.lua
if rec.state == 'held' and now >= stored(rec.deadline) and ARGV[3] ~= '1' then
  return {DUE, ARGV[2]}
end
return hold_now(OK, rec, fields)
