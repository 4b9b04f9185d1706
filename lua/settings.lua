#!lua
-- PURPOSE  change settings of an account, freeze, thaw or close it
-- KEYS     meta lease:new lease:finish stream due acct open members
-- ARGV     account context name value...
-- RETURNS  account
-- CODES    OK MALFORMED FENCED NO_FINISH CLOCK FULL MISS CLOSED NOT_ZERO
-- APPENDS  settings freeze
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

-- include: lib/clock.lua
-- include: lib/fence.lua
local fields = read_hash(KEYS[6])
if not fields then return {MISS} end
local changes, bad = read_settings(fields, 3)
if not changes then return {MALFORMED, bad} end
if #changes == 0 then return account_reply(OK, stored(fields.last_seq), '') end
if fields.status == 'closed' then return {CLOSED} end

local book, kind = open_book(fields, meta), 'settings'
local overdraft = stored(fields.overdraft_limit)
put_settings(book, changes)
for i = 1, #changes, 2 do
  if changes[i] == 'status' then kind = changes[i + 1] == 'closed' and 'settings' or 'freeze' end
end
-- A hold may be open and hold nothing any more: all of it was taken in parts.
local open = redis.call('ZCARD', KEYS[7])
if fields.status == 'closed'
  and (book.available ~= 0 or book.held ~= 0 or book.debt ~= 0 or open ~= 0) then
  return {NOT_ZERO, 'status'}
end
-- Less overdraft than is in use would make the balance a debt that nobody agreed to.
local now_allowed = stored(fields.overdraft_limit)
if now_allowed < overdraft and book.available < -now_allowed then
  return {NOT_ZERO, 'overdraft_limit'}
end
post(book, kind, now, nil, list('settings', changes, true))
check_book(book)

append_all(book)
write_account(book)
clear_settings(changes)
return account_reply(OK, meta.seq, meta.chain)
