#!lua
-- PURPOSE  set the limits of a member of an account
-- KEYS     meta lease:new lease:finish stream due acct open members
-- ARGV     account context member daily_limit monthly_limit max_hold
-- RETURNS  member
-- CODES    OK MALFORMED FENCED NO_FINISH CLOCK FULL MISS CLOSED
-- APPENDS  settings
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/pairs.lua
-- include: lib/clock.lua
-- include: lib/nonce.lua
-- include: lib/fence.lua
-- include: lib/period.lua
-- include: lib/account.lua
-- include: lib/entry.lua
-- include: lib/limits.lua

local limits = {}
for i = 4, 6 do
  if ARGV[i] ~= '' and not int(ARGV[i]) then return {MALFORMED, i} end
  limits[i - 3] = ARGV[i] ~= '' and ARGV[i] or '-'
end

local now = now_ms()
local meta, refusal = fence(now)
if not meta then return refusal end
local fields = read_hash(KEYS[6])
if not fields then return {MISS} end
if fields.status == 'closed' then return {CLOSED} end
local wanted = table.concat(limits, ' ')
local was = redis.call('HGET', KEYS[8], ARGV[3] .. '/limits')
local member = read_member(ARGV[3], day_of(now))
local created = was and 0 or 1
if was ~= wanted then
  local book = open_book(fields, meta)
  post(book, 'settings', now, nil, field('member', ARGV[3]) .. list('settings',
    {'daily_limit', ARGV[4], 'monthly_limit', ARGV[5], 'max_hold', ARGV[6]}))
  check_book(book)

  append_all(book)
  write_account(book)
  redis.call('HSET', KEYS[8], ARGV[3] .. '/limits', wanted)
end
return {OK, created, wanted, member.used.daily, member.used.monthly, meta.seq, meta.chain}
