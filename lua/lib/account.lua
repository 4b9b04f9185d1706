-- An account and what a script changes of it, for post() to tell and write_account() to write.
-- KEYS[6] = acct.
local ACCT = KEYS[6]
local CARRIED = {'base', 'debt', 'held', 'granted', 'refunded', 'spent', 'forfeited'}
local COUNTERS = {'granted', 'refunded', 'spent', 'forfeited'}

local function open_book(fields, meta)
  local book = read_book(fields)
  book.fields, book.meta, book.version = fields, meta, stored(fields.version)
  book.granted, book.refunded, book.spent, book.forfeited = 0, 0, 0, 0
  book.writes, book.entries = {}, {}
  book.was = {base = book.base, debt = book.debt, held = book.held,
    granted = 0, refunded = 0, spent = 0, forfeited = 0}
  return book
end

-- Raises, before any write, where the book does not balance or a counter would leave int64.
local function check_book(book)
  check_balance(book)
  for i = 1, #COUNTERS do
    if book[COUNTERS[i]] ~= 0 then check_counter(book.fields, COUNTERS[i]) end
  end
end

-- The account as its last entry leaves it.
local function write_account(book)
  local writes = {'available', book.available, 'held', book.held, 'version', book.version,
    'last_seq', book.meta.seq, 'base', book.base}
  if book.debt ~= stored(book.fields.debt) then put(writes, 'debt', book.debt) end
  for i = 1, #book.writes do writes[#writes + 1] = book.writes[i] end
  redis.call('HSET', ACCT, unpack(writes))
  if #book.grants > 0 then write_grants(book.grants) end
  for i = 1, #COUNTERS do
    local name = COUNTERS[i]
    if book[name] ~= 0 then redis.call('HINCRBY', ACCT, name, book[name]) end
  end
end
