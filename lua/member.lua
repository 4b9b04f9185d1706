#!lua
-- PURPOSE  change limits of a member of an account; '=' leaves one as it is, '' takes it away
-- KEYS     meta lease:new lease:finish stream due acct open members
-- ARGV     account context member daily_limit monthly_limit max_hold
-- RETURNS  member
-- CODES    OK MALFORMED FENCED NO_FINISH CLOCK FULL MISS CLOSED
-- APPENDS  settings
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/text.lua
-- include: lib/pairs.lua
-- include: lib/nonce.lua
-- include: lib/period.lua
-- include: lib/grants.lua
-- include: lib/book.lua
-- include: lib/account.lua
-- include: lib/entry.lua
-- include: lib/limits.lua
-- include: lib/members.lua

local asked = {ARGV[4], ARGV[5], ARGV[6]}
for i = 1, 3 do
  if asked[i] ~= '' and asked[i] ~= '=' and not int(asked[i]) then return {MALFORMED, i + 3} end
end

-- include: lib/clock.lua
-- include: lib/fence.lua
local fields = read_hash(KEYS[6])
if not fields then return {MISS} end
if fields.status == 'closed' then return {CLOSED} end
local was = redis.call('HGET', KEYS[8], ARGV[3] .. '/limits')
local member = read_member(ARGV[3], day_of(now))
local limits, settings = {}, {}
for i, name in ipairs({'daily_limit', 'monthly_limit', 'max_hold'}) do
  local limit = asked[i]
  if limit == '=' then limit = member.limits[i] and text(member.limits[i]) or '' end
  limits[i] = limit ~= '' and limit or '-'
  put(settings, name, limit)
end
local wanted = table.concat(limits, ' ')
local created = was and 0 or 1
if was ~= wanted then
  local book = open_book(fields, meta)
  post(book, 'settings', now, nil, field('member', ARGV[3]) .. list('settings', settings))
  check_book(book)

  append_all(book)
  write_account(book)
  redis.call('HSET', KEYS[8], ARGV[3] .. '/limits', wanted)
end
return {OK, created, wanted, member.used.daily, member.used.monthly, meta.seq, meta.chain}
