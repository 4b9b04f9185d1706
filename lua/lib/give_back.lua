-- What comes back from a hold, and what is lost on the way.

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
