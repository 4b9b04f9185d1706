#!lua
-- PURPOSE  end holds that are past their deadline and grants past their expiry; note the next deadline
-- KEYS     meta lease:new lease:finish stream due acct open members record...
-- ARGV     account context window_ms key...
-- RETURNS  count
-- CODES    OK MALFORMED FENCED NO_FINISH CLOCK FULL MISS
-- APPENDS  expire forfeit
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
-- include: lib/credit.lua
-- include: lib/give_back.lua
-- include: lib/entry.lua
-- include: lib/record.lua
-- include: lib/limits.lua
-- include: lib/members.lua
-- include: lib/count_used.lua
-- include: lib/deadlines.lua

local window_ms, holds = int(ARGV[3]), #ARGV - 3
if not window_ms then return {MALFORMED, 3} end
if holds > MAX_DUE or #KEYS ~= 8 + holds then return {MALFORMED, 4} end

-- include: lib/clock.lua
-- include: lib/fence.lua
local fields = read_hash(KEYS[6])
if not fields then return {MISS} end
local book = open_book(fields, meta)
local used, members = read_used(fields, day_of(now)), {}

-- One hold back into the account; the answer is what its record becomes, or nil if it is not due.
local function expire(rec, id)
  local rest, made_day, changes = stored(rec.remaining), day_of(stored(rec.made)), {}
  if rec.member then
    members[rec.member] = members[rec.member] or read_member(rec.member, used.day)
  end
  book.held = book.held - rest
  local lost = give_back(book, parse_draws(rec.draws or ''), rest, now)
  count_used(book, used, rec.member and members[rec.member], made_day, -rest)
  put(changes, 'state', 'expired')
  put(changes, 'remaining', '0')
  put(changes, 'ended', text(now))
  if rec.draws then put(changes, 'draws', '') end
  post(book, 'expire', now, text(rest), field('hold', id) .. field('opened', rec.opened)
    .. field('member', rec.member) .. field('model', rec.model) .. used_tail(made_day, -rest)
    .. list('record', changes))
  if lost > 0 then
    forfeit(book, lost)
    post(book, 'forfeit', now, text(lost), field('hold', id))
  end
  return changes
end

local expired, gone = {}, {}
for i = 1, holds do
  local id, key = ARGV[3 + i], KEYS[8 + i]
  local rec = read_hash(key)
  if rec and rec.kind == 'hold' and rec.state == 'held' and now >= stored(rec.deadline)
    and not expired[key] then
    expired[key], gone[id] = {id, expire(rec, id)}, true
  end
end
-- A grant that is due is over even when a hold has just given something back to it.
for _, g in ipairs(book.grants) do
  if g.expires <= now and g.remaining > 0 then
    local lost = g.remaining
    g.remaining = 0
    g.touched = true
    book.available = book.available - lost
    book.forfeited = book.forfeited + lost
    post(book, 'forfeit', now, text(lost), field('grant', g.id))
  end
end
check_book(book)
local first_open = redis.call('ZRANGE', KEYS[7], 0, holds, 'WITHSCORES')
redis.call('ZCARD', KEYS[5]) -- a damaged key refuses here, before any write

if #book.entries > 0 then
  append_all(book)
  write_account(book)
  for _, m in pairs(members) do write_member(m) end
  for key, e in pairs(expired) do
    write_record(key, e[2], now + window_ms)
    redis.call('ZREM', KEYS[7], e[1])
  end
end

-- The next deadline of the account, as exact as one look tells.
local next_due = math.huge
for _, o in ipairs(first_open) do
  if not gone[o[1]] then next_due = math.min(next_due, o[2].double) end
end
for _, g in ipairs(book.grants) do
  if g.remaining > 0 then next_due = math.min(next_due, g.expires) end
end
if next_due == math.huge then
  redis.call('ZREM', KEYS[5], ARGV[1])
else
  redis.call('ZADD', KEYS[5], next_due, ARGV[1])
end
return {OK, #book.entries, meta.seq, meta.chain}
