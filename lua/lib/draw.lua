-- Where credits come from. A hold remembers what it drew from expiring grants ("draws":
-- id@expires/priority=amount, comma separated, in the order drawn); the rest of it came from base,
-- then from overdraft. What is taken for good comes off the front of the draws.
local function draws_text(draws)
  local parts = {}
  for _, d in ipairs(draws) do
    if d.amount > 0 then
      parts[#parts + 1] = string.format('%s@%d/%d=%d', d.id, d.expires, d.priority, d.amount)
    end
  end
  return table.concat(parts, ',')
end

-- Is a grant past its expiry still in the book? Whoever spends answers DUE first.
local function grants_due(book, now)
  local first = book.grants[1]
  return first ~= nil and first.expires <= now
end

-- Take `amount` out of the account: grants soonest to expire first, then base, then overdraft or
-- debt. The caller has checked that it may. Adds to `draws`.
local function draw(book, amount, draws)
  book.available = book.available - amount
  for _, g in ipairs(book.grants) do
    local part = math.min(g.remaining, amount)
    if part > 0 then
      g.remaining = g.remaining - part
      amount = amount - part
      g.touched = true
      draws[#draws + 1] = {id = g.id, expires = g.expires, priority = g.priority, amount = part}
    end
  end
  local part = math.min(book.base, amount)
  book.base = book.base - part
  book.debt = book.debt + (amount - part)
end
