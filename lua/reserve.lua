#!lua
-- PURPOSE  set credits aside for one piece of work, until a deadline
-- KEYS     meta lease:new lease:finish stream due acct open members record
-- ARGV     account context amount min_amount ttl_ms member fingerprint window_ms absent_mark metadata key model?
-- RETURNS  hold
-- CODES    OK REPLAY MALFORMED FENCED NO_FINISH CLOCK FULL MISS MISS_KEY REUSED NO_NEW BACKLOG FROZEN CLOSED DUE LIMIT AMOUNT_LIMIT FUNDS
-- APPENDS  reserve
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/pairs.lua
-- include: lib/nonce.lua
-- include: lib/period.lua
-- include: lib/grants.lua
-- include: lib/book.lua
-- include: lib/draw.lua
-- include: lib/new_key.lua
-- include: lib/limits.lua
-- include: lib/members.lua
-- include: lib/next_due.lua

local amount, min_amount, ttl_ms = int(ARGV[3]), int(ARGV[4]), int(ARGV[5])
local member_id, fingerprint, window_ms = ARGV[6], ARGV[7], int(ARGV[8])
local metadata, key, model = ARGV[10], ARGV[11], ARGV[12]
if not amount or amount < 1 then return {MALFORMED, 3} end
if ARGV[4] ~= '' and (not min_amount or min_amount < 1 or min_amount > amount) then
  return {MALFORMED, 4}
end
if not ttl_ms or ttl_ms < 1 then return {MALFORMED, 5} end
if not window_ms then return {MALFORMED, 8} end

-- include: lib/clock.lua
-- include: lib/fence.lua

local fields = read_hash(KEYS[6])
if not fields then return {MISS} end
local rec = read_hash(KEYS[9])
if rec then
  -- include: lib/differs.lua
  -- include: lib/read_outcome.lua
  -- include: lib/hold.lua
  if rec.kind ~= 'hold' then return {REUSED, 0} end
  local at = differs(rec.fp, fingerprint)
  if at then return {REUSED, at} end
  local first, ttl = string.match(rec.result, '^(%d+) (%d+) ')
  local then_was = {state = 'held', amount = first, remaining = first, made = rec.made,
    deadline = stored(rec.made) + stored(ttl), member = rec.member, metadata = rec.metadata}
  local available, held, version, seq = read_outcome(rec.result)
  return hold_reply(REPLAY, then_was, available, held, version, seq, '')
end
if key_unknown(fields, int(ARGV[9]), window_ms, now) then return {MISS_KEY} end
if meta.no_new then return {meta.no_new} end
if fields.status == 'frozen' then return {FROZEN} end
if fields.status == 'closed' then return {CLOSED} end
-- include: lib/models.lua

local book, today = read_book(fields), day_of(now)
local used, member = read_used(fields, today), read_member(member_id, today)
local limit = denied(fields, used, member, amount, amount, redis.call('ZCARD', KEYS[7]))
local room = book.available + stored(fields.overdraft_limit)
if limit or room < amount or grants_due(book, now) then
  -- include: lib/deadlines.lua
  local first_expire = due(book, now)
  if first_expire then return first_expire end
  if limit then return {LIMIT, limit} end
  if room < (min_amount or amount) then return {FUNDS, book.available} end
  amount = room
end
if book.held + amount > MAX_AMOUNT then return {AMOUNT_LIMIT} end

local draws = {}
draw(book, amount, draws)
book.held = book.held + amount
add_used(used, today, amount)
if member then add_used(member.used, today, amount) end
check_balance(book)

local format = string.format
local seq, version, deadline = meta.seq + 1, stored(fields.version) + 1, now + ttl_ms
local result = format('%d %d %d %d %d %d', amount, ttl_ms, book.available, book.held, version, seq)
local to_base, into_debt = book.base - stored(fields.base), book.debt - stored(fields.debt)
-- What is rare in an entry: debt, grants, a member, a model; and what the record then has besides.
local debt, grants, who, more, more_text = '', '', '', nil, ''
if into_debt ~= 0 then debt = format(',"debt","%d"', into_debt) end
if #draws > 0 then grants = grants_text(book.grants) end
if member then who = ',"member":"' .. member_id .. '"' end
if model then who = who .. ',"model":"' .. model .. '"' end
if member or model or #draws > 0 or metadata ~= '' then
  more = {}
  if member then put(more, 'member', member_id) end
  if model then put(more, 'model', model) end
  if #draws > 0 then put(more, 'draws', draws_text(draws)) end
  if metadata ~= '' then put(more, 'metadata', metadata) end
  more_text = ',' .. string.sub(cjson.encode(more), 2, -2)
end
local entry = format('{"type":"reserve","account":"%s","seq":"%d","version":"%d","at":"%d"'
  .. ',"amount":"%d","available":"%d","held":"%d","delta":["base","%d","held","%d"%s]%s'
  .. ',"key":"%s","opened":"%d"%s,"day":"%d","used":"%d"'
  .. ',"record":["kind","hold","state","held","amount","%d","remaining","%d","made","%d"'
  .. ',"deadline","%d","fp","%s","opened","%d","result","%s"%s],"context":%s}',
  ARGV[1], seq, version, now,
  amount, book.available, book.held, to_base, amount, debt, grants,
  key, version, who, today, amount,
  amount, amount, now, deadline, fingerprint, version, result, more_text, ARGV[2])
local chain = redis.sha1hex(meta.chain .. entry)

note_deadline(deadline)
redis.call('XADD', KEYS[4], format('%d-0', seq), 'entry', entry, 'chain', chain)
redis.call('HSET', KEYS[1], 'seq', seq, 'chain', chain)
redis.call('HSET', KEYS[6], 'available', book.available, 'held', book.held, 'version', version,
  'last_seq', seq, 'base', book.base, 'used_day', used.daily, 'used_month', used.monthly)
if used.turned then redis.call('HSET', KEYS[6], 'day', today, 'month', used.month) end
if into_debt ~= 0 then redis.call('HSET', KEYS[6], 'debt', book.debt) end
if #draws > 0 then write_grants(book.grants) end
write_member(member)
redis.call('HSET', KEYS[9], 'kind', 'hold', 'state', 'held', 'amount', amount, 'remaining', amount,
  'made', now, 'deadline', deadline, 'fp', fingerprint, 'opened', version, 'result', result)
if more then redis.call('HSET', KEYS[9], unpack(more)) end
redis.call('ZADD', KEYS[7], deadline, key)
return {OK, 'held', amount, 0, amount, 0, 0, now, deadline, book.available, book.held, version,
  seq, chain, member_id, metadata}
