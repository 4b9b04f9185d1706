#!lua
-- PURPOSE  set credits aside for one piece of work, until a deadline
-- KEYS     meta lease:new lease:finish stream due acct open members record
-- ARGV     account context amount min_amount ttl_ms member fingerprint window_ms absent_mark metadata key
-- RETURNS  hold
-- CODES    OK REPLAY MALFORMED FENCED NO_FINISH CLOCK FULL MISS MISS_KEY REUSED NO_NEW BACKLOG FROZEN CLOSED DUE LIMIT AMOUNT_LIMIT FUNDS
-- APPENDS  reserve
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/pairs.lua
-- include: lib/clock.lua
-- include: lib/nonce.lua
-- include: lib/fence.lua
-- include: lib/period.lua
-- include: lib/account.lua
-- include: lib/draw.lua
-- include: lib/entry.lua
-- include: lib/record.lua
-- include: lib/new_key.lua
-- include: lib/outcome.lua
-- include: lib/hold.lua
-- include: lib/limits.lua
-- include: lib/deadlines.lua
-- include: lib/next_due.lua

local amount, ttl_ms, window_ms = int(ARGV[3]), int(ARGV[5]), int(ARGV[8])
local min_amount, member_id, fingerprint, key = int(ARGV[4]), ARGV[6], ARGV[7], ARGV[11]
if not amount or amount < 1 then return {MALFORMED, 3} end
if ARGV[4] ~= '' and (not min_amount or min_amount < 1 or min_amount > amount) then
  return {MALFORMED, 4}
end
if not ttl_ms or ttl_ms < 1 then return {MALFORMED, 5} end
if not window_ms then return {MALFORMED, 8} end

local now = now_ms()
local meta, refusal = fence(now)
if not meta then return refusal end

local fields = read_hash(KEYS[6])
if not fields then return {MISS} end

local rec = read_hash(KEYS[9])
if rec then
  if rec.kind ~= 'hold' then return {REUSED, 0} end
  local at = differs(rec.fp, fingerprint)
  if at then return {REUSED, at} end
  local first, ttl = string.match(rec.result, '^(%d+) (%d+) ')
  local then_was = {state = 'held', amount = first, remaining = first, made = rec.made,
    deadline = text(stored(rec.made) + stored(ttl)), member = rec.member, metadata = rec.metadata}
  local available, held, version, seq = read_outcome(rec.result)
  return hold_reply(REPLAY, then_was, available, held, version, seq, '')
end
if key_unknown(fields, int(ARGV[9]), window_ms, now) then return {MISS_KEY} end
if meta.no_new then return {meta.no_new} end
if fields.status == 'frozen' then return {FROZEN} end
if fields.status == 'closed' then return {CLOSED} end

local book = open_book(fields, meta)
local today = day_of(now)
local used, member = read_used(fields, today), read_member(member_id, today)
local limit = denied(fields, used, member, amount, amount, redis.call('ZCARD', KEYS[7]))
local room = book.available + stored(fields.overdraft_limit)
if limit or room < amount or grants_due(book, now) then
  local first_expire = due(book, now)
  if first_expire then return first_expire end
  if limit then return {LIMIT, limit} end
  if room < (min_amount or amount) then return {FUNDS, book.available} end
  amount = room
end
if book.held + amount > MAX_AMOUNT then return {AMOUNT_LIMIT} end
local score = due_score()

local draws = {}
draw(book, amount, draws)
book.held = book.held + amount
count_used(book, used, member, today, amount)
local made, deadline, opened = text(now), text(now + ttl_ms), text(book.version + 1)
local changes = {'kind', 'hold', 'state', 'held', 'amount', text(amount), 'remaining', text(amount),
  'made', made, 'deadline', deadline, 'fp', fingerprint, 'opened', opened,
  'result', text(amount) .. ' ' .. ARGV[5] .. ' ' .. outcome(book, 0)}
if member then put(changes, 'member', member_id) end
if #draws > 0 then put(changes, 'draws', draws_text(draws)) end
if ARGV[10] ~= '' then put(changes, 'metadata', ARGV[10]) end
post(book, 'reserve', now, text(amount), field('key', key) .. field('opened', opened)
  .. field('member', member_id) .. used_tail(today, amount)
  .. list('record', changes, ARGV[10] ~= ''))
check_book(book)

append_all(book)
write_account(book)
write_member(book)
write_record(KEYS[9], changes)
redis.call('ZADD', KEYS[7], deadline, key)
note_deadline(score, now + ttl_ms)
return {OK, 'held', amount, 0, amount, 0, 0, now, now + ttl_ms, book.available, book.held,
  book.version, meta.seq, meta.chain, member_id, ARGV[10]}
