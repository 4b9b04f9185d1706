-- The account as exact numbers (the book), and its way back into Redis.
-- KEYS[6] = acct. `available = base + grants - debt` is checked before anything is written.
local ACCT = KEYS[6]
local CARRIED = {'base', 'debt', 'held', 'granted', 'refunded', 'spent', 'forfeited'}
local COUNTERS = {'granted', 'refunded', 'spent', 'forfeited'}

-- Grants that still have something, in the order in which they are drawn.
local function read_grants(fields)
  local grants = {}
  if not fields.grants or fields.grants == '0' then return grants end
  for name, value in pairs(fields) do
    local id = string.match(name, '^g:(.+)$')
    if id then
      local expires, priority, remaining = string.match(value, '^(%d+) (%d+) (%d+)$')
      if not expires then error('not a grant: ' .. name .. ' ' .. value) end
      grants[#grants + 1] = {id = id, expires = tonumber(expires), priority = tonumber(priority),
        remaining = stored(remaining)}
    end
  end
  table.sort(grants, function(x, y)
    if x.expires ~= y.expires then return x.expires < y.expires end
    if x.priority ~= y.priority then return x.priority < y.priority end
    return x.id < y.id
  end)
  return grants
end

-- Counters are int64 in Redis: the book carries only what this script adds to them.
local function open_book(fields, meta)
  local book = {fields = fields, meta = meta, writes = {}, touched = {}, entries = {},
    available = stored(fields.available), held = stored(fields.held),
    base = stored(fields.base), debt = stored(fields.debt), version = stored(fields.version),
    granted = 0, refunded = 0, spent = 0, forfeited = 0, grants = read_grants(fields)}
  book.was = {base = book.base, debt = book.debt, held = book.held,
    granted = 0, refunded = 0, spent = 0, forfeited = 0}
  return book
end

-- Raises, before any write, where the book does not balance or a counter would leave int64.
local function check_book(book)
  local sum = book.base - book.debt
  for i = 1, #book.grants do sum = sum + book.grants[i].remaining end
  if sum ~= book.available or book.held < 0 or book.base < 0 or book.debt < 0 then
    error('the book of the account does not balance')
  end
  for i = 1, #COUNTERS do
    local name = COUNTERS[i]
    if book[name] ~= 0 and math.abs(tonumber(book.fields[name] or '0')) > MAX_COUNTER then
      error('counter ' .. name .. ' is full')
    end
  end
end

-- The account as its last entry leaves it.
local function write_account(book)
  local writes, touched = book.last, book.touched
  put(writes, 'base', text(book.base))
  if book.debt ~= stored(book.fields.debt) then put(writes, 'debt', text(book.debt)) end
  for i = 1, #book.writes do writes[#writes + 1] = book.writes[i] end
  if next(touched) then
    local live = 0
    for _, g in ipairs(book.grants) do
      if g.remaining > 0 then live = live + 1 end
      if touched[g.id] and g.remaining > 0 then
        put(writes, 'g:' .. g.id,
          text(g.expires) .. ' ' .. text(g.priority) .. ' ' .. text(g.remaining))
      elseif touched[g.id] then
        redis.call('HDEL', ACCT, 'g:' .. g.id)
      end
    end
    put(writes, 'grants', text(live))
  end
  redis.call('HSET', ACCT, unpack(writes))
  for i = 1, #COUNTERS do
    local name = COUNTERS[i]
    if book[name] ~= 0 then redis.call('HINCRBY', ACCT, name, text(book[name])) end
  end
end
