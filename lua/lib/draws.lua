-- The draws of a hold that exists (lib/draw.lua), read and taken from.
local function parse_draws(s)
  local draws = {}
  for id, expires, priority, amount in string.gmatch(s, '([^@,]+)@(%d+)/(%d+)=(%d+)') do
    draws[#draws + 1] = {id = id, expires = tonumber(expires), priority = tonumber(priority),
      amount = stored(amount)}
  end
  return draws
end

-- `amount` is taken for good out of what a hold drew.
local function take_front(draws, amount)
  for _, d in ipairs(draws) do
    local part = math.min(d.amount, amount)
    d.amount = d.amount - part
    amount = amount - part
  end
end
