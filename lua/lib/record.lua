-- What an idempotency key did: one hash for a hold, charge, grant or refund, with the keyed calls
-- on a hold (commit, release, extend) as fields `op:<key>` in it. A field that reads '' is absent.
-- MAX_KEYS: keyed calls on one hold; the last place is kept for the call that ends it.
local MAX_KEYS = 64

-- `changes` lists field, value, field, value; at least one is not ''.
local function write_record(key, changes, expire_at)
  local set, gone = changes, nil
  for i = 2, #changes, 2 do
    if changes[i] == '' then gone = true end
  end
  if gone then
    set = {}
    for i = 1, #changes, 2 do
      if changes[i + 1] == '' then
        redis.call('HDEL', key, changes[i])
      else
        put(set, changes[i], changes[i + 1])
      end
    end
  end
  redis.call('HSET', key, unpack(set))
  if expire_at then redis.call('PEXPIREAT', key, expire_at) end
end

-- A record with `changes` applied, as the answer shows it.
local function changed(rec, changes)
  for i = 1, #changes, 2 do
    rec[changes[i]] = changes[i + 1] ~= '' and changes[i + 1] or nil
  end
  return rec
end
