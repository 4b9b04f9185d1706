-- Balances as first answered, for a replay.

-- The balances as this call will answer them, for its replay. Built before the entry is posted,
-- which contains it: one entry is to come, and one more where something is forfeited.
local function outcome(book, lost)
  local entries = lost > 0 and 2 or 1
  return string.format('%d %d %d %d', book.available - lost, book.held, book.version + entries,
    book.meta.seq + entries)
end
