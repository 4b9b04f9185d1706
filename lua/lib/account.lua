-- The account as exact numbers (the book), and its way back into Redis.
-- KEYS[6] = acct. `available = base + grants - debt` is checked before anything is written.
local ACCT = KEYS[6]
local CARRIED = {'base', 'debt', 'held', 'granted', 'refunded', 'spent', 'forfeited'}
local COUNTERS = {'granted', 'refunded', 'spent', 'forfeited'}

local function read_account()
  local flat = redis.call('HGETALL', ACCT)
  if #flat == 0 then return nil end
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

-- Grants that still have something, in the order in which they are drawn.
local function read_grants(fields)
  local grants = {}
  if stored(fields.grants) == 0 then return grants end
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

local function put(book, field, value)
  local w = book.writes
  w[#w + 1] = field
  w[#w + 1] = value
end

-- Raises, before any write, where the book does not balance or a counter would leave int64.
local function check_book(book)
  local sum = book.base - book.debt
  for _, g in ipairs(book.grants) do sum = sum + g.remaining end
  if sum ~= book.available or book.held < 0 or book.base < 0 or book.debt < 0 then
    error('the book of the account does not balance')
  end
  for _, name in ipairs(COUNTERS) do
    if book[name] ~= 0 and math.abs(tonumber(book.fields[name] or '0')) > MAX_COUNTER then
      error('counter ' .. name .. ' is full')
    end
  end
end

local function write_account(book)
  local fields, live = book.fields, {}
  put(book, 'available', text(book.available))
  put(book, 'held', text(book.held))
  put(book, 'base', text(book.base))
  if book.debt ~= stored(fields.debt) then put(book, 'debt', text(book.debt)) end
  put(book, 'version', text(book.version))
  put(book, 'last_seq', text(book.meta.seq))
  for _, g in ipairs(book.grants) do
    if g.remaining > 0 then
      live[g.id] = true
      if book.touched[g.id] then
        put(book, 'g:' .. g.id, text(g.expires) .. ' ' .. text(g.priority) .. ' ' .. text(g.remaining))
      end
    end
  end
  local count = 0
  for _ in pairs(live) do count = count + 1 end
  if count ~= stored(fields.grants) then put(book, 'grants', text(count)) end
  redis.call('HSET', ACCT, unpack(book.writes))
  for id in pairs(book.touched) do
    if not live[id] then redis.call('HDEL', ACCT, 'g:' .. id) end
  end
  for _, name in ipairs(COUNTERS) do
    if book[name] ~= 0 then redis.call('HINCRBY', ACCT, name, text(book[name])) end
  end
end
