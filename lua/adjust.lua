#!lua
-- PURPOSE  correct an account by a signed amount, with a reason; counts in granted, pays debt first
-- KEYS     meta lease:new lease:finish stream due acct open members record
-- ARGV     account context amount fingerprint window_ms absent_mark metadata key owed on_shortfall
-- RETURNS  movement
-- CODES    OK REPLAY MALFORMED FENCED NO_FINISH CLOCK FULL MISS MISS_KEY REUSED NO_NEW BACKLOG CLOSED DUE AMOUNT_LIMIT FUNDS
-- APPENDS  adjust
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/text.lua
-- include: lib/pairs.lua
-- include: lib/nonce.lua
-- include: lib/grants.lua
-- include: lib/book.lua
-- include: lib/account.lua
-- include: lib/draw.lua
-- include: lib/credit.lua
-- include: lib/entry.lua
-- include: lib/differs.lua
-- include: lib/record.lua
-- include: lib/read_outcome.lua
-- include: lib/outcome.lua
-- include: lib/new_key.lua
-- include: lib/owed.lua
-- include: lib/movement.lua
-- include: lib/deadlines.lua

local size = int((string.gsub(ARGV[3], '^-', '')))
local fingerprint, window_ms, key = ARGV[4], int(ARGV[5]), ARGV[8]
if not size or size < 1 then return {MALFORMED, 3} end
if not window_ms then return {MALFORMED, 5} end
local takes = string.sub(ARGV[3], 1, 1) == '-'

-- include: lib/clock.lua
-- include: lib/fence.lua

local fields = read_hash(KEYS[6])
if not fields then return {MISS} end
local rec = read_hash(KEYS[9])
local earlier = recall_movement(rec, 'adjust', fingerprint)
if earlier then return earlier end
local absent_mark = int(ARGV[6])
if key_unknown(fields, absent_mark, window_ms, now) then return {MISS_KEY} end
if ARGV[9] == '1' and maybe_granted(fields, absent_mark) then return {MISS_KEY} end
if meta.no_new then return {meta.no_new} end
if fields.status == 'closed' then return {CLOSED} end

local book = open_book(fields, meta)
if takes then
  local first_expire = (book.available < size or grants_due(book, now)) and due(book, now)
  if first_expire then return first_expire end
  if book.available < size and ARGV[10] ~= 'debt' then return {FUNDS, book.available} end
  if size - book.available > MAX_AMOUNT then return {AMOUNT_LIMIT} end
  draw(book, size, {})
else
  if book.available + book.held + size > MAX_AMOUNT then return {AMOUNT_LIMIT} end
  local rest = pay_debt(book, size)
  book.base = book.base + rest
  book.available = book.available + rest
end
book.granted = takes and -size or size
local changes = new_movement('adjust', book.granted, now, fingerprint, ARGV[7], book)
post(book, 'adjust', now, text(book.granted),
  field('key', key) .. field('opened', text(book.version + 1))
  .. list('record', changes, true))
put(book.writes, 'last_grant_seq', text(meta.seq))
check_book(book)

append_all(book)
write_account(book)
write_record(KEYS[9], changes, now + window_ms)
return movement_reply(OK, changed({}, changes), book.available, book.held, book.version, meta.seq,
  meta.chain)
