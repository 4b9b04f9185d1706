-- The clock of the test build: `meta.test_now_ms` where a test has set it, else Redis's own plus
-- `meta.test_offset_ms`. Never part of a production build; the renderer swaps it in by name.
local time, set = redis.call('TIME'), redis.call('HMGET', KEYS[1], 'test_now_ms', 'test_offset_ms')
local now = tonumber(set[1])
  or time[1] * 1000 + math.floor(time[2] / 1000) + (tonumber(set[2]) or 0)
