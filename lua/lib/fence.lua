-- May this Redis, in this life, decide about money now? Gives `meta`, the shard's counters, or ends
-- the script with a refusal. Expects KEYS[1..3] = meta, lease:new, lease:finish.
-- B1 unsettled entries stop new spending: about 2 s of one shard at full speed. B2 stop everything:
-- what Redis must keep may not grow without end.
local B1 = 20000
local B2 = 80000

local meta
do
  local m = redis.call('HMGET', KEYS[1], 'nonce', 'seq', 'chain', 'settled', 'clock_ms')
  if m[1] ~= NONCE then return {FENCED} end
  local lease = redis.call('MGET', KEYS[2], KEYS[3])
  if lease[2] ~= NONCE then return {NO_FINISH} end
  if now < stored(m[5]) - CLOCK_SLACK_MS then return {CLOCK} end
  meta = {seq = stored(m[2]), chain = m[3] or '', settled = stored(m[4])}
  local backlog = meta.seq - meta.settled
  if backlog >= B2 then return {FULL} end
  if lease[1] ~= NONCE then
    meta.no_new = NO_NEW
  elseif backlog >= B1 then
    meta.no_new = BACKLOG
  end
end
