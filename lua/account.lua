#!lua flags=no-writes
-- PURPOSE  read an account and, where one is named, a member of it; what is due is said, not done
-- KEYS     meta lease:new lease:finish stream due acct open members
-- ARGV     account member even_if_due
-- RETURNS  account_read
-- CODES    OK FENCED MISS DUE
-- APPENDS  nothing
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/pairs.lua
-- include: lib/nonce.lua
-- include: lib/period.lua
-- include: lib/grants.lua
-- include: lib/book.lua
-- include: lib/account.lua
-- include: lib/draw.lua
-- include: lib/limits.lua
-- include: lib/members.lua
-- include: lib/deadlines.lua

if redis.call('HGET', KEYS[1], 'nonce') ~= NONCE then return {FENCED} end
local fields = read_hash(KEYS[6])
if not fields then return {MISS} end
-- include: lib/clock.lua
local first_expire = due({grants = read_grants(fields)}, now)
if first_expire and ARGV[3] ~= '1' then return first_expire end
local today = day_of(now)
local used, member, limits = read_used(fields, today), nil, false
if ARGV[2] ~= '' then
  member = read_member(ARGV[2], today)
  limits = redis.call('HGET', KEYS[8], ARGV[2] .. '/limits') or false
end
return {OK, first_expire and 1 or 0, redis.call('ZCARD', KEYS[7]), used.daily, used.monthly,
  redis.call('HGETALL', ACCT), limits, member and member.used.daily or 0,
  member and member.used.monthly or 0}
