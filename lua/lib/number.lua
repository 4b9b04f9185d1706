-- Amounts are integers of microcredits, exact in a Lua number up to 2^53 and bounded well below.
local MAX_AMOUNT = 9e15
local MAX_COUNTER = 9.2e18 -- int64 less one amount: HINCRBY must never be what refuses

-- Exact decimal text of an integer; most are needed more than once in a script. `%d` goes by way of
-- a 64-bit integer, exact below 2^53, at two fifths of what `%.0f` costs (docs/decisions/0003).
local texts = {}
local function text(n)
  local s = texts[n]
  if not s then
    s = string.format('%d', n)
    texts[n] = s
  end
  return s
end

-- An argument: decimal text of 0 .. 9e15, written as we would write it, as a number; else nil.
-- That refuses what tonumber() takes besides: "nan", "0x10", "1e3", " 7".
local function int(s)
  local n = tonumber(s)
  if n and n >= 0 and n <= MAX_AMOUNT and text(n) == s then return n end
end

-- What a key of ours holds. Anything but an integer there is damage: raise before any write.
local function stored(s)
  local n = tonumber(s or 0)
  if not n or n % 1 ~= 0 then error('not an integer in a stored field: ' .. s) end -- nan, inf too
  return n
end
