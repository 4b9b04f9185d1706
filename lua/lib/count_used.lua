-- Count `amount` (may be negative) on the day a hold was made.
local function count_used(book, used, member, day, amount)
  if amount == 0 then return end
  add_used(used, day, amount)
  local writes = book.writes
  put(writes, 'used_day', used.daily)
  put(writes, 'used_month', used.monthly)
  if used.turned then
    put(writes, 'day', used.day)
    put(writes, 'month', used.month)
  end
  if member then
    add_used(member.used, day, amount)
    book.member = member
  end
end
