-- Fingerprints: four characters a request field, in the order of holdfast/keys.py.
local FINGERPRINT_WIDTH = 4

-- The number (1, 2, ...) of the first request field that differs, or nil where all are the same.
local function differs(was, is)
  if was == is then return nil end
  for i = 1, math.max(#was, #is), FINGERPRINT_WIDTH do
    local j = i + FINGERPRINT_WIDTH - 1
    if string.sub(was, i, j) ~= string.sub(is, i, j) then return (j) / FINGERPRINT_WIDTH end
  end
end
