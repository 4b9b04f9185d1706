-- How credits enter an account: debt is paid first.
local MAX_GRANTS = 16

local function pay_debt(book, amount)
  local paid = math.min(book.debt, amount)
  book.debt = book.debt - paid
  book.available = book.available + paid
  return amount - paid
end

-- Credit `amount` to an expiring grant. One more than 16 live ones merges into the nearest later
-- expiry, else into base: the customer never loses by it. book.added is the first expiry of what
-- was not live before: `due` may not know of it.
local function credit_grant(book, id, expires, priority, amount)
  book.available = book.available + amount
  local live, later, at = 0, nil, #book.grants + 1
  for i, g in ipairs(book.grants) do
    if g.id == id then
      g.remaining = g.remaining + amount
      g.touched = true
      return
    end
    if g.remaining > 0 then
      live = live + 1
      if not later and g.expires >= expires then later = g end
    end
    if at > #book.grants and g.expires > expires then at = i end
  end
  if live < MAX_GRANTS then
    book.added = math.min(book.added or expires, expires)
    table.insert(book.grants, at,
      {id = id, expires = expires, priority = priority, remaining = amount,
        touched = true})
  elseif later then
    later.remaining = later.remaining + amount
    later.touched = true
  else
    book.base = book.base + amount
  end
end
