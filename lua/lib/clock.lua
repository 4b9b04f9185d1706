-- The one clock of a script: Redis's own, read once, in milliseconds since 1970 UTC.
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
