-- What an idempotency key did: one hash for a hold, charge, grant or refund, with the keyed calls on
-- a hold (commit, release, extend) as fields `op:<key>` in it. A field that reads '' is absent.
-- The fingerprint is four characters a request field, in the order of holdfast/keys.py.
local MAX_KEYS = 64 -- keyed calls on one hold; the last place is kept for the call that ends it
local FINGERPRINT_WIDTH = 4

local function read_record(key)
  local flat = redis.call('HGETALL', key)
  if #flat == 0 then return nil end
  local rec = {}
  for i = 1, #flat, 2 do rec[flat[i]] = flat[i + 1] end
  return rec
end

-- The number (1, 2, ...) of the first request field that differs, or nil where all are the same.
local function differs(was, is)
  if was == is then return nil end
  for i = 1, math.max(#was, #is), FINGERPRINT_WIDTH do
    local j = i + FINGERPRINT_WIDTH - 1
    if string.sub(was, i, j) ~= string.sub(is, i, j) then return (j) / FINGERPRINT_WIDTH end
  end
end

-- An account that was loaded without all its records cannot know whether a key is new: the caller
-- must bring the record, or the mark at which the journal lacked it.
local function key_unknown(fields, absent_mark, window_ms, now)
  if not fields.loaded_at or fields.complete == '1' then return false end
  if now >= stored(fields.loaded_at) + window_ms then return false end
  return absent_mark == nil or absent_mark < stored(fields.load_mark)
end

-- `changes` lists field, value, field, value. Applied to `rec` at once, to Redis by write_record.
local function change(rec, changes, name, value)
  rec[name] = value ~= '' and value or nil
  changes[#changes + 1] = name
  changes[#changes + 1] = value
end

local function write_record(key, changes, expire_at)
  local set, gone = {}, {}
  for i = 1, #changes, 2 do
    if changes[i + 1] == '' then
      gone[#gone + 1] = changes[i]
    else
      set[#set + 1] = changes[i]
      set[#set + 1] = changes[i + 1]
    end
  end
  redis.call('HSET', key, unpack(set))
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
  if expire_at then redis.call('PEXPIREAT', key, text(expire_at)) end
end

-- The balances as this call will answer them, for its replay. Built before the entry is posted, which
-- contains it: one entry is to come, and one more where something is forfeited.
local function outcome(book, lost)
  local entries = lost > 0 and 2 or 1
  return text(book.available - lost) .. ' ' .. text(book.held) .. ' ' .. text(book.version + entries)
    .. ' ' .. text(book.meta.seq + entries)
end

local function read_outcome(s)
  local available, held, version, seq = string.match(s, '(%-?%d+) (%d+) (%d+) (%d+)$')
  return stored(available), stored(held), stored(version), stored(seq)
end
