-- Amounts are integers of microcredits, exact in a Lua number up to 2^53 and bounded well below.
-- A number that goes to Redis as a value of its own needs no text: Redis writes it exactly.
local MAX_AMOUNT = 9e15
local MAX_COUNTER = 9.2e18 -- int64 less one amount: HINCRBY must never be what refuses

-- An argument: decimal text of 0 .. 9e15, written as we would write it, as a number; else nil.
-- The pattern refuses what tonumber() takes besides: "nan", "0x10", "1e3", " 7".
local function int(s)
  if s == '0' then return 0 end
  local n = s and string.find(s, '^[1-9]%d*$') and tonumber(s)
  if n and n <= MAX_AMOUNT then return n end
end

-- What a key of ours holds. Anything but an integer there is damage: raise before any write.
local function stored(s)
  local n = tonumber(s or 0)
  if not n or n % 1 ~= 0 then error('not an integer in a stored field: ' .. s) end -- nan, inf too
  return n
end
