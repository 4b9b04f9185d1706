-- What of an account is due: open holds past their deadline (KEYS[7] = open) and grants past their
-- expiry. MAX_DUE holds are what one call may expire: it bounds the longest script.
local MAX_DUE = 100

-- {DUE, hold ids} where something is due, else nil.
local function due(book, now)
  local ids = redis.call('ZRANGEBYSCORE', KEYS[7], '-inf', now, 'LIMIT', 0, MAX_DUE)
  if #ids == 0 and not grants_due(book, now) then return nil end
  return {DUE, unpack(ids)}
end
