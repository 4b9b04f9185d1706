-- Where credits come from and go back to. A hold remembers what it drew from expiring grants
-- ("draws": id@expires/priority=amount, comma separated, in the order drawn); the rest of it came
-- from base, then from overdraft. What is taken for good comes off the front of the draws.
local MAX_GRANTS = 16

local function parse_draws(s)
  local draws = {}
  for id, expires, priority, amount in string.gmatch(s or '', '([^@,]+)@(%d+)/(%d+)=(%d+)') do
    draws[#draws + 1] = {id = id, expires = tonumber(expires), priority = tonumber(priority),
      amount = stored(amount)}
  end
  return draws
end

local function draws_text(draws)
  local parts = {}
  for _, d in ipairs(draws) do
    if d.amount > 0 then
      parts[#parts + 1] = d.id .. '@' .. text(d.expires) .. '/' .. text(d.priority) .. '=' .. text(d.amount)
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
      book.touched[g.id] = true
      draws[#draws + 1] = {id = g.id, expires = g.expires, priority = g.priority, amount = part}
    end
  end
  local part = math.min(book.base, amount)
  book.base = book.base - part
  book.debt = book.debt + (amount - part)
end

local function pay_debt(book, amount)
  local paid = math.min(book.debt, amount)
  book.debt = book.debt - paid
  book.available = book.available + paid
  return amount - paid
end

-- Credit `amount` to an expiring grant. One more than 16 live ones merges into the nearest later
-- expiry, else into base: the customer never loses by it.
local function credit_grant(book, id, expires, priority, amount)
  book.available = book.available + amount
  local live, later, at = 0, nil, #book.grants + 1
  for i, g in ipairs(book.grants) do
    if g.id == id then
      g.remaining = g.remaining + amount
      book.touched[id] = true
      return
    end
    if g.remaining > 0 then
      live = live + 1
      if not later and g.expires >= expires then later = g end
    end
    if at > #book.grants and g.expires > expires then at = i end
  end
  if live < MAX_GRANTS then
    table.insert(book.grants, at, {id = id, expires = expires, priority = priority, remaining = amount})
    book.touched[id] = true
  elseif later then
    later.remaining = later.remaining + amount
    book.touched[later.id] = true
  else
    book.base = book.base + amount
  end
end

-- Give back what a hold did not use: it pays debt first, then returns to where it was drawn from.
-- What belongs to a grant that has expired meanwhile lands in base and is answered: the caller
-- posts its own entry, then forfeit() takes it out again under an entry of its own.
local function give_back(book, draws, amount, now)
  local rest = pay_debt(book, amount)
  local paid, lost, granted = amount - rest, 0, 0
  for _, d in ipairs(draws) do
    local part = math.max(d.amount - paid, 0)
    paid = math.max(paid - d.amount, 0)
    if part > 0 and d.expires <= now then
      lost = lost + part
    elseif part > 0 then
      granted = granted + part
      credit_grant(book, d.id, d.expires, d.priority, part)
    end
  end
  book.base = book.base + (rest - granted)
  book.available = book.available + (rest - granted)
  return lost
end

local function forfeit(book, amount)
  book.base = book.base - amount
  book.available = book.available - amount
  book.forfeited = book.forfeited + amount
end

-- `amount` is taken for good out of what a hold drew.
local function take_front(draws, amount)
  for _, d in ipairs(draws) do
    local part = math.min(d.amount, amount)
    d.amount = d.amount - part
    amount = amount - part
  end
end
