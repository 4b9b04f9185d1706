-- The balances that a call first answered.

local function read_outcome(s)
  local available, held, version, seq = string.match(s, '(%-?%d+) (%d+) (%d+) (%d+)$')
  return stored(available), stored(held), stored(version), stored(seq)
end
