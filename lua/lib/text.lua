-- Exact decimal text of an integer, by way of a 64-bit one (docs/decisions/0003).
local function text(n)
  return string.format('%d', n)
end
