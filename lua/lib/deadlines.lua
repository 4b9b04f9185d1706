-- What of an account is due: open holds past their deadline (KEYS[7] = open) and grants past their
-- expiry.
local MAX_DUE = 100 -- holds that one call may expire: bounds the longest script

local function holds_due(now)
  return redis.call('ZRANGEBYSCORE', KEYS[7], '-inf', text(now), 'LIMIT', 0, MAX_DUE)
end

-- {DUE, hold ids} where something is due, else nil.
local function due(book, now)
  local ids = holds_due(now)
  if #ids == 0 and not grants_due(book, now) then return nil end
  return {DUE, unpack(ids)}
end
