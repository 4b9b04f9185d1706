#!lua flags=allow-oom
-- PURPOSE  lend a shard the permission to finish work and, where asked, to take on new spending
-- KEYS     meta lease:new lease:finish stream
-- ARGV     taken_ms run_id replid new proof_ms
-- RETURNS  shard
-- CODES    OK MALFORMED FENCED CLOCK STALE BUSY
-- APPENDS  nothing
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/text.lua
-- include: lib/nonce.lua

-- The lease ends 2 s after `taken_ms`, a Redis TIME that the worker read before Postgres took its
-- proof of life: a worker that was stopped in between renews nothing.
local LEASE_MS = 2000
local taken, proof = int(ARGV[1]), int(ARGV[5])
if not taken then return {MALFORMED, 1} end
if not proof then return {MALFORMED, 5} end
local meta = redis.call('HMGET', KEYS[1], 'nonce', 'clock_ms', 'seq', 'settled', 'chain',
  'last_evict_seq', 'proof_ms', 'lent_ms', 'ahead_ms')
if meta[1] ~= NONCE then return {FENCED} end
local info = redis.call('INFO', 'server') .. redis.call('INFO', 'replication')
if string.match(info, 'run_id:(%x+)') ~= ARGV[2]
  or string.match(info, 'master_replid:(%x+)') ~= ARGV[3] then
  return {BUSY}
end
-- include: lib/clock.lua
if now < stored(meta[2]) - CLOCK_SLACK_MS then return {CLOCK} end

-- Redis has ended its own lease, which in one generation nothing else does, though by the clock
-- that it tells now there was more than a second to go: the clock was ahead in between. What else
-- was ended early nobody knows. A stall of the worker outlives `lent_ms`, and says nothing.
local told, lent = time[1] * 1000 + math.floor(time[2] / 1000), stored(meta[8])
if not meta[9] and told < lent - CLOCK_SLACK_MS and redis.call('EXISTS', KEYS[3]) == 0 then
  meta[9] = redis.call('HSET', KEYS[1], 'ahead_ms', text(lent))
end
if meta[9] then return {STALE} end

local left = LEASE_MS - (told - taken)
if left >= 1 and left <= LEASE_MS then
  redis.call('SET', KEYS[3], NONCE, 'PX', text(left))
  if ARGV[4] == '1' then redis.call('SET', KEYS[2], NONCE, 'PX', text(left)) end
  local changes = {'clock_ms', text(math.max(now, stored(meta[2]))), 'lent_ms', text(told + left)}
  if proof > stored(meta[7]) then
    changes[5], changes[6] = 'proof_ms', text(proof)
  end
  redis.call('HSET', KEYS[1], unpack(changes))
end
return {OK, stored(meta[3]), stored(meta[4]), meta[5] or '', stored(meta[6]), left,
  redis.call('XLEN', KEYS[4])}
