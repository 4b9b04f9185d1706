-- The keyed calls that a hold remembers, and how it refuses one more.

-- A call that does not end the hold is remembered with the hold as it left it; one that ends it
-- needs only the balances, for nothing but a refund changes the hold after that.
local function remember(rec, changes, kind, key, fingerprint, balances, ends)
  local value = kind .. ' ' .. fingerprint
  if not ends then
    value = value .. ' ' .. table.concat({rec.state, rec.amount, rec.committed or '0',
      rec.remaining, rec.uncollected or '0', rec.late or '0', rec.deadline}, ' ')
  end
  put(changes, 'op:' .. key, value .. ' ' .. balances)
  put(changes, 'ops', text(stored(rec.ops) + 1))
end

-- How a hold that has ended refuses another call.
local function ended(rec)
  if rec.state == 'committed' then return {HOLD_COMMITTED} end
  if rec.state == 'released' then return {HOLD_RELEASED} end
  return {HOLD_EXPIRED}
end
