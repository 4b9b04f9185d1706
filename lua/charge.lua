#!lua
-- PURPOSE  take credits for work that is already done or priced: reserve and commit in one
-- KEYS     meta lease:new lease:finish stream due acct open members record
-- ARGV     account context amount on_shortfall member fingerprint window_ms absent_mark metadata key model?
-- RETURNS  movement
-- CODES    OK REPLAY MALFORMED FENCED NO_FINISH CLOCK FULL MISS MISS_KEY REUSED NO_NEW BACKLOG FROZEN CLOSED DUE LIMIT AMOUNT_LIMIT FUNDS
-- APPENDS  charge
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/text.lua
-- include: lib/pairs.lua
-- include: lib/nonce.lua
-- include: lib/period.lua
-- include: lib/grants.lua
-- include: lib/book.lua
-- include: lib/account.lua
-- include: lib/draw.lua
-- include: lib/entry.lua
-- include: lib/differs.lua
-- include: lib/record.lua
-- include: lib/read_outcome.lua
-- include: lib/outcome.lua
-- include: lib/new_key.lua
-- include: lib/movement.lua
-- include: lib/limits.lua
-- include: lib/members.lua
-- include: lib/count_used.lua
-- include: lib/deadlines.lua

local amount, on_shortfall, member_id, fingerprint = int(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local window_ms, key, model = int(ARGV[7]), ARGV[10], ARGV[11]
if not amount or amount < 1 then return {MALFORMED, 3} end
if not window_ms then return {MALFORMED, 7} end

-- include: lib/clock.lua
-- include: lib/fence.lua

local fields = read_hash(KEYS[6])
if not fields then return {MISS} end
local rec = read_hash(KEYS[9])
local earlier = recall_movement(rec, 'charge', fingerprint)
if earlier then return earlier end
if key_unknown(fields, int(ARGV[8]), window_ms, now) then return {MISS_KEY} end
if meta.no_new then return {meta.no_new} end
if fields.status == 'frozen' then return {FROZEN} end
if fields.status == 'closed' then return {CLOSED} end
-- include: lib/models.lua

local book, today = open_book(fields, meta), day_of(now)
local used, member = read_used(fields, today), read_member(member_id, today)
local limit = denied(fields, used, member, amount, amount)
local short = amount - math.max(book.available + stored(fields.overdraft_limit), 0)
if limit or short > 0 or grants_due(book, now) then
  local first_expire = due(book, now)
  if first_expire then return first_expire end
  if limit then return {LIMIT, limit} end
end
local uncollected = 0
if short > 0 and on_shortfall == 'reject' then return {FUNDS, book.available} end
if short > 0 and on_shortfall == 'cap' then
  amount, uncollected = amount - short, short
end
if amount - book.available > MAX_AMOUNT then return {AMOUNT_LIMIT} end

draw(book, amount, {})
book.spent = amount
count_used(book, used, member, today, amount)
local changes = new_movement('charge', amount, now, fingerprint, ARGV[9], book)
put(changes, 'state', 'committed')
put(changes, 'committed', text(amount))
if uncollected > 0 then put(changes, 'uncollected', text(uncollected)) end
if member then put(changes, 'member', member_id) end
post(book, 'charge', now, text(amount), field('key', key) .. field('opened', text(book.version + 1))
  .. field('member', member_id) .. field('model', model)
  .. field('uncollected', uncollected > 0 and text(uncollected))
  .. used_tail(today, amount) .. list('record', changes, true))
check_book(book)

append_all(book)
write_account(book)
write_member(book.member)
write_record(KEYS[9], changes, now + window_ms)
return movement_reply(OK, changed({}, changes), book.available, book.held, book.version, meta.seq,
  meta.chain)
