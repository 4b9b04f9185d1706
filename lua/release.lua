#!lua
-- PURPOSE  give back what is left in a hold
-- KEYS     meta lease:new lease:finish stream due acct open members record
-- ARGV     account context op_key fingerprint window_ms key
-- RETURNS  hold
-- CODES    OK REPLAY MALFORMED FENCED NO_FINISH CLOCK FULL MISS MISS_RECORD REUSED HOLD_COMMITTED HOLD_RELEASED DUE
-- APPENDS  release forfeit
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/text.lua
-- include: lib/pairs.lua
-- include: lib/nonce.lua
-- include: lib/period.lua
-- include: lib/grants.lua
-- include: lib/book.lua
-- include: lib/account.lua
-- include: lib/draws.lua
-- include: lib/credit.lua
-- include: lib/give_back.lua
-- include: lib/entry.lua
-- include: lib/differs.lua
-- include: lib/record.lua
-- include: lib/read_outcome.lua
-- include: lib/outcome.lua
-- include: lib/hold.lua
-- include: lib/hold_now.lua
-- include: lib/recall.lua
-- include: lib/hold_calls.lua
-- include: lib/limits.lua
-- include: lib/members.lua
-- include: lib/count_used.lua
-- include: lib/next_due.lua

local op_key, fingerprint, window_ms, key = ARGV[3], ARGV[4], int(ARGV[5]), ARGV[6]
if not window_ms then return {MALFORMED, 5} end

-- include: lib/clock.lua
-- include: lib/fence.lua

local fields = read_hash(KEYS[6])
if not fields then return {MISS} end
local rec = read_hash(KEYS[9])
if not rec then return {MISS_RECORD} end
if rec.kind ~= 'hold' then return {MISS_RECORD, 1} end
local earlier = recall(rec, 'release', op_key, fingerprint)
if earlier then return earlier end
if rec.state == 'expired' then return hold_now(OK, rec, fields) end -- it has gone back already
if rec.state ~= 'held' then return ended(rec) end
if now >= stored(rec.deadline) then return {DUE, key} end

local book, rest = open_book(fields, meta), stored(rec.remaining)
local used, made_day = read_used(fields, day_of(now)), day_of(stored(rec.made))
local member = read_member(rec.member or '', used.day)
redis.call('ZCARD', KEYS[7]) -- a damaged key refuses here, before any write

local changes = {}
book.held = book.held - rest
local lost = give_back(book, parse_draws(rec.draws or ''), rest, now)
count_used(book, used, member, made_day, -rest)
put(changes, 'state', 'released')
put(changes, 'remaining', '0')
put(changes, 'ended', text(now))
if rec.draws then put(changes, 'draws', '') end
remember(changed(rec, changes), changes, 'release', op_key, fingerprint, outcome(book, lost), true)
post(book, 'release', now, text(rest), field('key', op_key) .. field('hold', key)
  .. field('opened', rec.opened) .. field('member', rec.member) .. field('model', rec.model)
  .. used_tail(made_day, -rest) .. list('record', changes))
if lost > 0 then
  forfeit(book, lost)
  post(book, 'forfeit', now, text(lost), field('hold', key))
end
check_book(book)

if book.added then note_deadline(book.added) end
append_all(book)
write_account(book)
write_member(book.member)
write_record(KEYS[9], changes, now + window_ms)
redis.call('ZREM', KEYS[7], key)
return hold_reply(OK, changed(rec, changes), book.available, book.held, book.version, meta.seq,
  meta.chain)
