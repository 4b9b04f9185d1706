-- Balances as first answered, for a replay.

-- The balances as this call will answer them, for its replay. Built before the entry is posted,
-- which contains it: one entry is to come, and one more where something is forfeited.
local function outcome(book, lost)
  local entries = lost > 0 and 2 or 1
  return text(book.available - lost) .. ' ' .. text(book.held) .. ' '
    .. text(book.version + entries) .. ' ' .. text(book.meta.seq + entries)
end

local function read_outcome(s)
  local available, held, version, seq = string.match(s, '(%-?%d+) (%d+) (%d+) (%d+)$')
  return stored(available), stored(held), stored(version), stored(seq)
end
