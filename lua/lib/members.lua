-- Who spends: KEYS[8] = members, `<member>/limits` = "daily monthly max_hold", '-' for none;
-- `<member>/used` = "day used month used".

local function read_member(member, day)
  if member == '' then return nil end
  local got = redis.call('HMGET', KEYS[8], member .. '/limits', member .. '/used')
  local m = {name = member, limits = {}}
  for word in string.gmatch(got[1] or '- - -', '%S+') do
    m.limits[#m.limits + 1] = int(word) or false
  end
  local d, ud, mo, um = string.match(got[2] or '', '^(%d+) (%d+) (%d+) (%d+)$')
  m.used = read_used({day = d, used_day = ud, month = mo, used_month = um}, day)
  return m
end

local function write_member(m)
  if not m then return end
  redis.call('HSET', KEYS[8], m.name .. '/used', string.format('%d %d %d %d', m.used.day,
    m.used.daily, m.used.month, m.used.monthly))
end
