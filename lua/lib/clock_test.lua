-- The clock of the test build: `meta.test_now_ms` where a test has set it, else Redis's own plus
-- `meta.test_offset_ms`. Never part of a production build; the renderer swaps it in by name.
local function now_ms()
  local f = redis.call('HMGET', KEYS[1], 'test_now_ms', 'test_offset_ms')
  if f[1] then return tonumber(f[1]) end
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(f[2] or '0')
end
