-- Hashes as Redis gives and takes them: field, value, field, value.
local function read_hash(key)
  local flat = redis.call('HGETALL', key)
  if #flat == 0 then return nil end
  local map = {}
  for i = 1, #flat, 2 do map[flat[i]] = flat[i + 1] end
  return map
end

local function put(flat, name, value)
  local n = #flat
  flat[n + 1], flat[n + 2] = name, value
end
