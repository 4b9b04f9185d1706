#!lua
-- PURPOSE  take what a piece of work really cost out of its hold; after expiry, out of the account
-- KEYS     meta lease:new lease:finish stream due acct open members record
-- ARGV     account context amount on_shortfall final op_key fingerprint window_ms key
-- RETURNS  hold
-- CODES    OK REPLAY MALFORMED FENCED NO_FINISH CLOCK FULL MISS MISS_RECORD REUSED HOLD_COMMITTED HOLD_RELEASED KEYS_FULL DUE AMOUNT_LIMIT COMMIT_FUNDS
-- APPENDS  commit forfeit
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/pairs.lua
-- include: lib/clock.lua
-- include: lib/nonce.lua
-- include: lib/fence.lua
-- include: lib/period.lua
-- include: lib/account.lua
-- include: lib/draw.lua
-- include: lib/draws.lua
-- include: lib/credit.lua
-- include: lib/give_back.lua
-- include: lib/entry.lua
-- include: lib/record.lua
-- include: lib/outcome.lua
-- include: lib/hold.lua
-- include: lib/hold_calls.lua
-- include: lib/limits.lua
-- include: lib/deadlines.lua
-- include: lib/next_due.lua

local amount, window_ms = int(ARGV[3]), int(ARGV[8])
local on_shortfall, final = ARGV[4], ARGV[5] == '1'
local op_key, fingerprint, key = ARGV[6], ARGV[7], ARGV[9]
if ARGV[3] ~= '' and not amount then return {MALFORMED, 3} end
if not window_ms then return {MALFORMED, 8} end

local now = now_ms()
local meta, refusal = fence(now)
if not meta then return refusal end

local fields = read_hash(KEYS[6])
if not fields then return {MISS} end
local rec = read_hash(KEYS[9])
if not rec then return {MISS_RECORD} end
if rec.kind ~= 'hold' then return {MISS_RECORD, 1} end
local earlier = recall(rec, 'commit', op_key, fingerprint)
if earlier then return earlier end
if rec.state == 'committed' or rec.state == 'released' then return ended(rec) end
if not final and stored(rec.ops) >= MAX_KEYS - 1 then return {KEYS_FULL} end

local late = rec.state == 'expired'
if not late and now >= stored(rec.deadline) then return {DUE, key} end

-- An expired hold has nothing set aside any more: all of a late commit is extra.
local remaining, committed = stored(rec.remaining), stored(rec.committed)
local take = amount or (late and stored(rec.amount) - committed or remaining)
local in_hold = math.min(take, remaining)
local extra, uncollected = take - in_hold, 0
local book = open_book(fields, meta)
if extra > 0 then
  local room = math.max(book.available + stored(fields.overdraft_limit), 0)
  local short = math.max(extra - room, 0)
  if short > 0 or grants_due(book, now) then
    local first_expire = due(book, now)
    if first_expire then return first_expire end
  end
  if short > 0 and on_shortfall == 'reject' then return {COMMIT_FUNDS, book.available, short} end
  if short > 0 and on_shortfall == 'cap' then
    extra, uncollected = extra - short, short
  end
  if extra - book.available > MAX_AMOUNT then return {AMOUNT_LIMIT} end
end
local rest = final and remaining - in_hold or 0
local used, made_day = read_used(fields, day_of(now)), day_of(stored(rec.made))
local member = read_member(rec.member or '', used.day)
if committed + take > MAX_AMOUNT then return {AMOUNT_LIMIT} end
redis.call('ZSCORE', KEYS[7], key) -- a damaged key refuses here, before any write
local score = rec.draws and due_score()

local changes, draws = {}, parse_draws(rec.draws)
take_front(draws, in_hold)
book.held = book.held - in_hold - rest
book.spent = in_hold + extra
draw(book, extra, {})
local lost = final and give_back(book, draws, rest, now) or 0
count_used(book, used, member, made_day, extra - rest)

put(changes, 'committed', text(committed + in_hold + extra))
put(changes, 'remaining', text(final and 0 or remaining - in_hold))
if uncollected > 0 then put(changes, 'uncollected', text(stored(rec.uncollected) + uncollected)) end
if late then put(changes, 'late', '1') end
if final then
  put(changes, 'state', 'committed')
  put(changes, 'ended', text(now))
end
if rec.draws then put(changes, 'draws', final and '' or draws_text(draws)) end
remember(changed(rec, changes), changes, 'commit', op_key, fingerprint, outcome(book, lost), final)
post(book, 'commit', now, text(in_hold + extra), field('key', op_key) .. field('hold', key)
  .. field('opened', rec.opened) .. field('member', rec.member) .. field('late', late and '1')
  .. field('uncollected', uncollected > 0 and text(uncollected))
  .. used_tail(made_day, extra - rest) .. list('record', changes))
if lost > 0 then
  forfeit(book, lost)
  post(book, 'forfeit', now, text(lost), field('hold', key))
end
check_book(book)

append_all(book)
write_account(book)
write_member(book)
write_record(KEYS[9], changes, final and now + window_ms)
if final then redis.call('ZREM', KEYS[7], key) end
if book.added then note_deadline(score, book.added) end
return {OK, rec.state, stored(rec.amount), committed + in_hold + extra,
  final and 0 or remaining - in_hold, stored(rec.uncollected), late and 1 or 0,
  stored(rec.made), stored(rec.deadline), book.available, book.held, book.version,
  meta.seq, meta.chain, rec.member or '', rec.metadata or ''}
