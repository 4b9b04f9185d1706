#!lua
-- PURPOSE  give back, to base, part of what a hold or a charge took
-- KEYS     meta lease:new lease:finish stream due acct open members record target
-- ARGV     account context amount fingerprint window_ms absent_mark metadata key of owed
-- RETURNS  movement
-- CODES    OK REPLAY MALFORMED FENCED NO_FINISH CLOCK FULL MISS MISS_KEY MISS_RECORD REUSED HOLD_OPEN AMOUNT_LIMIT REFUND_EXCEEDS
-- APPENDS  refund
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/text.lua
-- include: lib/pairs.lua
-- include: lib/nonce.lua
-- include: lib/grants.lua
-- include: lib/book.lua
-- include: lib/account.lua
-- include: lib/credit.lua
-- include: lib/entry.lua
-- include: lib/differs.lua
-- include: lib/record.lua
-- include: lib/read_outcome.lua
-- include: lib/outcome.lua
-- include: lib/new_key.lua
-- include: lib/movement.lua

local amount, fingerprint, window_ms = int(ARGV[3]), ARGV[4], int(ARGV[5])
local key, of = ARGV[8], ARGV[9]
if ARGV[3] ~= '' and (not amount or amount < 1) then return {MALFORMED, 3} end
if not window_ms then return {MALFORMED, 5} end

-- include: lib/clock.lua
-- include: lib/fence.lua

local fields = read_hash(KEYS[6])
if not fields then return {MISS} end
local rec = read_hash(KEYS[9])
local earlier = recall_movement(rec, 'refund', fingerprint)
if earlier then return earlier end
local absent_mark = int(ARGV[6])
if key_unknown(fields, absent_mark, window_ms, now) then return {MISS_KEY} end
-- What is owed may be asked for again long after its record has expired: then the caller brings the
-- mark at which the journal lacked it, and no refund may have been made after that mark.
if ARGV[10] == '1' and (not absent_mark or absent_mark < stored(fields.last_refund_seq)) then
  return {MISS_KEY}
end
local target = read_hash(KEYS[10])
if not target then return {MISS_RECORD} end
if target.kind ~= 'hold' and target.kind ~= 'charge' then return {MISS_RECORD, 1} end
if target.state == 'held' then return {HOLD_OPEN} end
local left = stored(target.committed) - stored(target.refunded)
amount = amount or left
if amount < 1 or amount > left then return {REFUND_EXCEEDS, left} end

local book = open_book(fields, meta)
if book.available + book.held + amount > MAX_AMOUNT then return {AMOUNT_LIMIT} end

local rest = pay_debt(book, amount)
book.base = book.base + rest
book.available = book.available + rest
book.refunded = amount
local changes = new_movement('refund', amount, now, fingerprint, ARGV[7], book)
put(changes, 'of', of)
local target_changes = {'refunded', text(stored(target.refunded) + amount)}
post(book, 'refund', now, text(amount), field('key', key) .. field('opened', text(book.version + 1))
  .. field('of', of) .. field('of_opened', target.opened) .. list('record', changes, true)
  .. list('of_record', target_changes))
put(book.writes, 'last_refund_seq', text(meta.seq))
check_book(book)

append_all(book)
write_account(book)
write_record(KEYS[9], changes, now + window_ms)
write_record(KEYS[10], target_changes)
return movement_reply(OK, changed({}, changes), book.available, book.held, book.version, meta.seq,
  meta.chain)
