#!lua
-- PURPOSE  open an account that neither Redis nor the journal knows
-- KEYS     meta lease:new lease:finish stream due acct open members
-- ARGV     account context absent_mark name value...
-- RETURNS  account
-- CODES    OK MALFORMED FENCED NO_FINISH CLOCK FULL EXISTS STALE
-- APPENDS  open
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/text.lua
-- include: lib/pairs.lua
-- include: lib/nonce.lua
-- include: lib/grants.lua
-- include: lib/book.lua
-- include: lib/account.lua
-- include: lib/entry.lua
-- include: lib/settings.lua
-- include: lib/account_reply.lua

local absent_mark = int(ARGV[3])
if not absent_mark then return {MALFORMED, 3} end

-- include: lib/clock.lua
-- include: lib/fence.lua
if read_hash(KEYS[6]) then return {EXISTS} end
-- Only a journal that has all that was ever evicted can say that an account is unknown.
if absent_mark < stored(redis.call('HGET', KEYS[1], 'last_evict_seq')) then return {STALE} end
local changes, bad = read_settings({}, 4)
if not changes then return {MALFORMED, bad} end
redis.call('ZCARD', KEYS[7])

local book = open_book({}, meta)
local status = {'status', 'active'}
for i = 1, #changes, 2 do
  if changes[i] == 'status' then status = {} end
end
for i = 1, #status do changes[#changes + 1] = status[i] end
put_settings(book, changes)
put(book.writes, 'opened', text(now))
post(book, 'open', now, nil, list('settings', changes, true))
check_book(book)

append_all(book)
write_account(book)
return account_reply(OK, meta.seq, meta.chain)
