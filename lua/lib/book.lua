-- The money of an account as exact numbers. `available = base + grants - debt` is checked before
-- anything is written.

-- Grants in the order in which they are drawn.
local function read_book(fields)
  return {available = stored(fields.available), held = stored(fields.held),
    base = stored(fields.base), debt = stored(fields.debt),
    grants = (fields.grants or '0') == '0' and {} or read_grants(fields)}
end

local function check_balance(book)
  local sum = book.base - book.debt
  for i = 1, #book.grants do sum = sum + book.grants[i].remaining end
  if sum ~= book.available or book.held < 0 or book.base < 0 or book.debt < 0 then
    error('the book of the account does not balance')
  end
end

-- Counters are int64 in Redis: only what a script adds is a number here.
local function check_counter(fields, name)
  if math.abs(tonumber(fields[name] or '0')) > MAX_COUNTER then
    error('counter ' .. name .. ' is full')
  end
end
