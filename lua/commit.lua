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
-- include: lib/nonce.lua
-- include: lib/period.lua
-- include: lib/grants.lua
-- include: lib/book.lua
-- include: lib/draw.lua
-- include: lib/draws.lua
-- include: lib/credit.lua
-- include: lib/give_back.lua
-- include: lib/record.lua
-- include: lib/limits.lua
-- include: lib/members.lua
-- include: lib/next_due.lua

local amount, window_ms = int(ARGV[3]), int(ARGV[8])
local on_shortfall, final = ARGV[4], ARGV[5] == '1'
local op_key, fingerprint, key = ARGV[6], ARGV[7], ARGV[9]
if ARGV[3] ~= '' and not amount then return {MALFORMED, 3} end
if not window_ms then return {MALFORMED, 8} end

-- include: lib/clock.lua
-- include: lib/fence.lua

local fields = read_hash(KEYS[6])
if not fields then return {MISS} end
local rec = read_hash(KEYS[9])
if not rec then return {MISS_RECORD} end
if rec.kind ~= 'hold' then return {MISS_RECORD, 1} end
if rec['op:' .. op_key] then
  -- include: lib/differs.lua
  -- include: lib/read_outcome.lua
  -- include: lib/hold.lua
  -- include: lib/recall.lua
  local earlier = recall(rec, 'commit', op_key, fingerprint)
  if earlier then return earlier end
end
if rec.state == 'committed' then return {HOLD_COMMITTED} end
if rec.state == 'released' then return {HOLD_RELEASED} end
if not final and stored(rec.ops) >= MAX_KEYS - 1 then return {KEYS_FULL} end

local late, made = rec.state == 'expired', stored(rec.made)
if not late and now >= stored(rec.deadline) then return {DUE, key} end

-- An expired hold has nothing set aside any more: all of a late commit is extra.
local remaining, committed = stored(rec.remaining), stored(rec.committed)
local take = amount or (late and math.max(stored(rec.amount) - committed, 0) or remaining)
local in_hold = math.min(take, remaining)
local extra, uncollected = take - in_hold, 0
local book = read_book(fields)
if extra > 0 then
  local room = math.max(book.available + stored(fields.overdraft_limit), 0)
  local short = math.max(extra - room, 0)
  if short > 0 or grants_due(book, now) then
    -- include: lib/deadlines.lua
    local first_expire = due(book, now)
    if first_expire then return first_expire end
  end
  if short > 0 and on_shortfall == 'reject' then return {COMMIT_FUNDS, book.available, short} end
  if short > 0 and on_shortfall == 'cap' then
    extra, uncollected = extra - short, short
  end
  if extra - book.available > MAX_AMOUNT then return {AMOUNT_LIMIT} end
end
if committed + take > MAX_AMOUNT then return {AMOUNT_LIMIT} end
local rest = final and remaining - in_hold or 0
local used = read_used(fields, day_of(now))
local made_day = same_day(made, now) and used.day or day_of(made)
local member = rec.member and read_member(rec.member, used.day)
redis.call('ZCARD', KEYS[7]) -- a damaged key refuses here, before any write

local taken, counted, draws = in_hold + extra, extra - rest, {}
if rec.draws then
  draws = parse_draws(rec.draws)
  take_front(draws, in_hold)
end
book.held = book.held - in_hold - rest
if extra > 0 then draw(book, extra, {}) end
local lost = final and give_back(book, draws, rest, now) or 0
add_used(used, made_day, counted)
if member then add_used(member.used, made_day, counted) end
check_balance(book)
check_counter(fields, 'spent')
if lost > 0 then check_counter(fields, 'forfeited') end

local format, entries = string.format, lost > 0 and 2 or 1
local seq, version = meta.seq + 1, stored(fields.version) + 1
local into_debt = book.debt - stored(fields.debt)
local left, ops, missed = final and 0 or remaining - in_hold, stored(rec.ops) + 1, uncollected
committed, uncollected = committed + taken, stored(rec.uncollected) + missed

-- A retry is answered from `op:<key>`. A call that ends the hold leaves only the balances there,
-- for nothing but a refund changes the hold after it.
local state, then_is = rec.state, ''
if final then
  state = 'committed'
else
  then_is = format('%s %s %d %d %d %d %s ', state, rec.amount, committed, left, uncollected,
    late and 1 or 0, rec.deadline)
end
local op = format('commit %s %s%d %d %d %d', fingerprint, then_is, book.available - lost,
  book.held, version + entries - 1, seq + entries - 1)

-- What of the entry, of the record in it and of the writes is there or not.
local hold = {'committed', committed, 'remaining', left, 'op:' .. op_key, op, 'ops', ops}
local account = {'held', book.held, 'version', version + entries - 1,
  'last_seq', seq + entries - 1}
local debt, tail, record = '', '', ''
if into_debt ~= 0 then
  debt = format(',"debt","%d"', into_debt)
  put(account, 'debt', book.debt)
end
if #book.grants > 0 then tail = grants_text(book.grants) end
if op_key ~= '' then tail = tail .. ',"key":"' .. op_key .. '"' end
if member then tail = tail .. ',"member":"' .. rec.member .. '"' end
if rec.model then tail = tail .. ',"model":"' .. rec.model .. '"' end
if counted ~= 0 then
  tail = format('%s,"day":"%d","used":"%d"', tail, made_day, counted)
  put(account, 'used_day', used.daily)
  put(account, 'used_month', used.monthly)
  if used.turned then
    put(account, 'day', used.day)
    put(account, 'month', used.month)
  end
end
if final then
  record = format(',"state","committed","ended","%d"', now)
  put(hold, 'state', 'committed')
  put(hold, 'ended', now)
end
if rec.draws then
  local drawn = final and '' or draws_text(draws)
  record = record .. ',"draws","' .. drawn .. '"'
  put(hold, 'draws', drawn)
end
if late then
  tail, record = tail .. ',"late":"1"', record .. ',"late","1"'
  put(hold, 'late', 1)
end
if missed > 0 then
  tail = format('%s,"uncollected":"%d"', tail, missed)
  record = format('%s,"uncollected","%d"', record, uncollected)
  put(hold, 'uncollected', uncollected)
end
local entry = format('{"type":"commit","account":"%s","seq":"%d","version":"%d","at":"%d"'
  .. ',"amount":"%d","available":"%d","held":"%d"'
  .. ',"delta":["base","%d","held","%d","spent","%d"%s],"hold":"%s","opened":"%s"%s'
  .. ',"record":["committed","%d","remaining","%d","op:%s","%s","ops","%d"%s],"context":%s}',
  ARGV[1], seq, version, now,
  taken, book.available, book.held,
  book.base - stored(fields.base), -in_hold - rest, taken, debt, key, rec.opened, tail,
  committed, left, op_key, op, ops, record, ARGV[2])
local chain, forfeited = redis.sha1hex(meta.chain .. entry), nil
if lost > 0 then
  book.base, book.available = book.base - lost, book.available - lost
  forfeited = format('{"type":"forfeit","account":"%s","seq":"%d","version":"%d","at":"%d"'
    .. ',"amount":"%d","available":"%d","held":"%d","delta":["base","%d","forfeited","%d"]'
    .. ',"hold":"%s","context":%s}', ARGV[1], seq + 1, version + 1, now, lost, book.available,
    book.held, -lost, lost, key, ARGV[2])
end

if book.added then note_deadline(book.added) end
redis.call('XADD', KEYS[4], format('%d-0', seq), 'entry', entry, 'chain', chain)
if forfeited then
  seq, version, chain = seq + 1, version + 1, redis.sha1hex(chain .. forfeited)
  redis.call('XADD', KEYS[4], format('%d-0', seq), 'entry', forfeited, 'chain', chain)
  redis.call('HINCRBY', KEYS[6], 'forfeited', lost)
end
put(account, 'available', book.available)
put(account, 'base', book.base)
redis.call('HSET', KEYS[1], 'seq', seq, 'chain', chain)
redis.call('HSET', KEYS[6], unpack(account))
if taken > 0 then redis.call('HINCRBY', KEYS[6], 'spent', taken) end
if #book.grants > 0 then write_grants(book.grants) end
if counted ~= 0 then write_member(member) end
write_record(KEYS[9], hold, final and now + window_ms)
if final then redis.call('ZREM', KEYS[7], key) end
return {OK, state, stored(rec.amount), committed, left, uncollected, late and 1 or 0, made,
  stored(rec.deadline), book.available, book.held, version, seq, chain, rec.member or '',
  rec.metadata or ''}
