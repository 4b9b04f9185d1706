#!lua
-- PURPOSE  move the deadline of an open hold, and set more aside in it
-- KEYS     meta lease:new lease:finish stream due acct open members record
-- ARGV     account context ttl_ms add_amount op_key fingerprint key
-- RETURNS  hold
-- CODES    OK REPLAY MALFORMED FENCED NO_FINISH CLOCK FULL MISS MISS_RECORD REUSED NO_NEW BACKLOG FROZEN CLOSED HOLD_COMMITTED HOLD_RELEASED HOLD_EXPIRED KEYS_FULL DUE LIMIT AMOUNT_LIMIT FUNDS
-- APPENDS  extend
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
-- include: lib/draws.lua
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
-- include: lib/deadlines.lua

local ttl_ms, add, op_key, fingerprint, key = int(ARGV[3]), int(ARGV[4]), ARGV[5], ARGV[6], ARGV[7]
if ARGV[3] ~= '' and (not ttl_ms or ttl_ms < 1) then return {MALFORMED, 3} end
if ARGV[4] ~= '' and (not add or add < 1) then return {MALFORMED, 4} end
if add and op_key == '' then return {MALFORMED, 5} end

-- include: lib/clock.lua
-- include: lib/fence.lua

local fields = read_hash(KEYS[6])
if not fields then return {MISS} end
local rec = read_hash(KEYS[9])
if not rec then return {MISS_RECORD} end
if rec.kind ~= 'hold' then return {MISS_RECORD, 1} end
local earlier = op_key ~= '' and recall(rec, 'extend', op_key, fingerprint)
if earlier then return earlier end
if add and meta.no_new then return {meta.no_new} end
if add and fields.status == 'frozen' then return {FROZEN} end
if add and fields.status == 'closed' then return {CLOSED} end
if rec.state ~= 'held' then return ended(rec) end
if op_key ~= '' and stored(rec.ops) >= MAX_KEYS - 1 then return {KEYS_FULL} end
if now >= stored(rec.deadline) then return {DUE, key} end

local book, changes = open_book(fields, meta), {}
local used, made_day = read_used(fields, day_of(now)), day_of(stored(rec.made))
local member, draws = read_member(rec.member or '', used.day), parse_draws(rec.draws or '')
redis.call('ZCARD', KEYS[7]) -- a damaged key refuses here, before any write
if add then
  local limit = denied(fields, used, member, add, stored(rec.amount) + add)
  local short = book.available + stored(fields.overdraft_limit) < add
  if limit or short or grants_due(book, now) then
    local first_expire = due(book, now)
    if first_expire then return first_expire end
    if limit then return {LIMIT, limit} end
    if short then return {FUNDS, book.available} end
  end
  if book.held + add > MAX_AMOUNT or stored(rec.amount) + add > MAX_AMOUNT then
    return {AMOUNT_LIMIT}
  end
  draw(book, add, draws)
  book.held = book.held + add
  count_used(book, used, member, made_day, add)
  put(changes, 'amount', text(stored(rec.amount) + add))
  put(changes, 'remaining', text(stored(rec.remaining) + add))
  if #draws > 0 then put(changes, 'draws', draws_text(draws)) end
end
local deadline = math.max(stored(rec.deadline), now + (ttl_ms or 0))
if op_key == '' and deadline == stored(rec.deadline) then return hold_now(OK, rec, fields) end
put(changes, 'deadline', text(deadline))
if op_key ~= '' then
  remember(changed(rec, changes), changes, 'extend', op_key, fingerprint, outcome(book, 0), false)
end
post(book, 'extend', now, text(add or 0), field('key', op_key) .. field('hold', key)
  .. field('opened', rec.opened) .. field('member', rec.member) .. field('model', rec.model)
  .. used_tail(made_day, add or 0) .. list('record', changes))
check_book(book)

append_all(book)
write_account(book)
write_member(book.member)
write_record(KEYS[9], changes)
redis.call('ZADD', KEYS[7], text(deadline), key)
return hold_reply(OK, changed(rec, changes), book.available, book.held, book.version, meta.seq,
  meta.chain)
