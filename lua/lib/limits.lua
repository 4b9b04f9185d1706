-- What an account and its members may use a day and a month. `used` counts holds in the UTC day and
-- month in which they were made; what comes back goes there too, or nowhere once they are past.
-- Limits are numbered as holdfast/codes.py names them.
local LIMIT_MAX_HOLD, LIMIT_DAILY, LIMIT_MONTHLY, LIMIT_MAX_OPEN = 1, 2, 3, 4
local LIMIT_MEMBER_MAX_HOLD, LIMIT_MEMBER_DAILY, LIMIT_MEMBER_MONTHLY = 5, 6, 7
local LIMIT_MODELS = 8

local function read_used(fields, day)
  local month, of_day, of_month = math.floor(day / 100), stored(fields.day), stored(fields.month)
  return {day = day, month = month, turned = of_day ~= day,
    daily = of_day == day and stored(fields.used_day) or 0,
    monthly = of_month == month and stored(fields.used_month) or 0}
end

-- The first limit that denies `amount` more, or nil. `more_open` asks for one more open hold, of
-- `whole` in all.
local function denied(fields, used, member, amount, whole, more_open)
  local limit = int(fields.max_hold)
  if limit and whole > limit then return LIMIT_MAX_HOLD end
  limit = int(fields.daily_limit)
  if limit and used.daily + amount > limit then return LIMIT_DAILY end
  limit = int(fields.monthly_limit)
  if limit and used.monthly + amount > limit then return LIMIT_MONTHLY end
  limit = int(fields.max_open_holds)
  if limit and more_open and more_open >= limit then return LIMIT_MAX_OPEN end
  if not member then return nil end
  local daily, monthly, max_hold = unpack(member.limits)
  if max_hold and whole > max_hold then return LIMIT_MEMBER_MAX_HOLD end
  if daily and member.used.daily + amount > daily then return LIMIT_MEMBER_DAILY end
  if monthly and member.used.monthly + amount > monthly then return LIMIT_MEMBER_MONTHLY end
end

-- A limit is at most MAX_AMOUNT, so a use beyond it need not be told apart from it: it stops there.
local function add_used(used, day, amount)
  local daily, monthly = used.daily, used.monthly
  if used.day == day then daily = math.min(math.max(daily + amount, 0), MAX_AMOUNT) end
  if used.month == math.floor(day / 100) then
    monthly = math.min(math.max(monthly + amount, 0), MAX_AMOUNT)
  end
  used.daily, used.monthly = daily, monthly
end
