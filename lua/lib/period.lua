-- UTC days and months as an operator reads them: 20261120, 202611.
-- Days to a civil date after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
local DAY_MS = 86400000

local function same_day(ms, other)
  return math.floor(ms / DAY_MS) == math.floor(other / DAY_MS)
end

local function day_of(ms)
  local floor = math.floor
  local z = floor(ms / DAY_MS) + 719468
  local era = floor(z / 146097)
  local doe = z - era * 146097
  local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
  local mp = floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return year * 10000 + month * 100 + (doy - floor((153 * mp + 2) / 5) + 1)
end
