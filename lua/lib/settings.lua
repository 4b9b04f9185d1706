-- Settings of an account arrive as pairs name, value at the end of ARGV; '' clears one.
local AMOUNT_SETTINGS = {overdraft_limit = true, daily_limit = true, monthly_limit = true,
  max_hold = true, max_open_holds = true, low_balance = true}
local TEXT_SETTINGS = {plan = true, models = true, metadata = true, status = true}

-- The pairs from ARGV[first] on that differ from `fields`, or nil and the number of the argument
-- that is not acceptable.
local function read_settings(fields, first)
  local changes = {}
  for i = first, #ARGV, 2 do
    local name, value = ARGV[i], ARGV[i + 1]
    if not value or not (AMOUNT_SETTINGS[name] or TEXT_SETTINGS[name]) then return nil, i end
    if AMOUNT_SETTINGS[name] and value ~= '' and not int(value) then return nil, i + 1 end
    if (fields[name] or '') ~= value then
      changes[#changes + 1] = name
      changes[#changes + 1] = value
    end
  end
  return changes
end

local function put_settings(book, changes)
  for i = 1, #changes, 2 do
    book.fields[changes[i]] = changes[i + 1] ~= '' and changes[i + 1] or nil
    if changes[i + 1] ~= '' then put(book.writes, changes[i], changes[i + 1]) end
  end
end

local function clear_settings(changes)
  for i = 1, #changes, 2 do
    if changes[i + 1] == '' then redis.call('HDEL', ACCT, changes[i]) end
  end
end
