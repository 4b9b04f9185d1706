-- Whether a key that has no record is new.

-- An account that was loaded without all its records cannot know whether a key is new: the caller
-- must bring the record, or the mark at which the journal lacked it.
local function key_unknown(fields, absent_mark, window_ms, now)
  if not fields.loaded_at or fields.complete == '1' then return false end
  if now >= stored(fields.loaded_at) + window_ms then return false end
  return absent_mark == nil or absent_mark < stored(fields.load_mark)
end
