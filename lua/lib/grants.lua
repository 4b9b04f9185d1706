-- Expiring grants of an account, fields `g:<id>` = "expires_ms priority remaining" of KEYS[6].

-- Grants that still have something, in the order in which they are drawn.
local function read_grants(fields)
  local grants = {}
  if not fields.grants or fields.grants == '0' then return grants end
  for name, value in pairs(fields) do
    local id = string.match(name, '^g:(.+)$')
    if id then
      local expires, priority, remaining = string.match(value, '^(%d+) (%d+) (%d+)$')
      if not expires then error('not a grant: ' .. name .. ' ' .. value) end
      grants[#grants + 1] = {id = id, expires = tonumber(expires), priority = tonumber(priority),
        remaining = stored(remaining)}
    end
  end
  table.sort(grants, function(x, y)
    if x.expires ~= y.expires then return x.expires < y.expires end
    if x.priority ~= y.priority then return x.priority < y.priority end
    return x.id < y.id
  end)
  return grants
end

-- What an entry says about the grants that this script touched.
local function grants_text(grants)
  local s = ''
  for _, g in ipairs(grants) do
    if g.touched then
      s = string.format('%s,"%s","%d %d %d"', s, g.id, g.expires, g.priority, g.remaining)
    end
  end
  return s == '' and '' or ',"grants":[' .. string.sub(s, 2) .. ']'
end

local function write_grants(grants)
  local live, touched = 0, false
  for _, g in ipairs(grants) do
    if g.remaining > 0 then live = live + 1 end
    touched = touched or g.touched
    if g.touched and g.remaining > 0 then
      redis.call('HSET', KEYS[6], 'g:' .. g.id,
        string.format('%d %d %d', g.expires, g.priority, g.remaining))
    elseif g.touched then
      redis.call('HDEL', KEYS[6], 'g:' .. g.id)
    end
  end
  if touched then redis.call('HSET', KEYS[6], 'grants', live) end
end
