-- Hashes as Redis gives and takes them: a map under RESP 3 (which holds for this script only),
-- which costs less than to build one here. Sorted sets then give a score as {double = score}.
redis.setresp(3)

local function read_hash(key)
  local map = redis.call('HGETALL', key).map
  if next(map) then return map end
end

-- Field, value, field, value.
local function put(flat, name, value)
  local n = #flat
  flat[n + 1], flat[n + 2] = name, value
end
