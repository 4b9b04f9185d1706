#!lua
-- PURPOSE  put credits into an account; they pay debt first
-- KEYS     meta lease:new lease:finish stream due acct open members record
-- ARGV     account context amount priority expires_ms source fingerprint window_ms absent_mark metadata key owed
-- RETURNS  movement
-- CODES    OK REPLAY MALFORMED FENCED NO_FINISH CLOCK FULL MISS MISS_KEY REUSED NO_NEW BACKLOG CLOSED AMOUNT_LIMIT
-- APPENDS  grant
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
-- include: lib/owed.lua
-- include: lib/movement.lua
-- include: lib/next_due.lua

local amount, priority, expires = int(ARGV[3]), int(ARGV[4]), int(ARGV[5])
local fingerprint, window_ms, key = ARGV[7], int(ARGV[8]), ARGV[11]
if not amount or amount < 1 then return {MALFORMED, 3} end
if not priority then return {MALFORMED, 4} end
if ARGV[5] ~= '' and not expires then return {MALFORMED, 5} end
if not window_ms then return {MALFORMED, 8} end

-- include: lib/clock.lua
-- include: lib/fence.lua

local fields = read_hash(KEYS[6])
if not fields then return {MISS} end
local rec = read_hash(KEYS[9])
local earlier = recall_movement(rec, 'grant', fingerprint)
if earlier then return earlier end
local absent_mark = int(ARGV[9])
if key_unknown(fields, absent_mark, window_ms, now) then return {MISS_KEY} end
if ARGV[12] == '1' and maybe_granted(fields, absent_mark) then return {MISS_KEY} end
if meta.no_new then return {meta.no_new} end
if fields.status == 'closed' then return {CLOSED} end
if expires and expires <= now then return {MALFORMED, 5} end

local book = open_book(fields, meta)
if book.available + book.held + amount > MAX_AMOUNT then return {AMOUNT_LIMIT} end

local rest = pay_debt(book, amount)
if expires and rest > 0 then
  credit_grant(book, key, expires, priority, rest)
else
  book.base = book.base + rest
  book.available = book.available + rest
end
book.granted = amount
local changes = new_movement('grant', amount, now, fingerprint, ARGV[10], book)
put(changes, 'source', ARGV[6])
if expires then put(changes, 'expires', text(expires)) end
post(book, 'grant', now, text(amount), field('key', key) .. field('opened', text(book.version + 1))
  .. field('source', ARGV[6]) .. list('record', changes, true))
put(book.writes, 'last_grant_seq', text(meta.seq))
check_book(book)

if expires then note_deadline(expires) end
append_all(book)
write_account(book)
write_record(KEYS[9], changes, now + window_ms)
return movement_reply(OK, changed({}, changes), book.available, book.held, book.version, meta.seq,
  meta.chain)
