#!lua flags=allow-oom
-- PURPOSE  raise a shard to a newer generation; every script of an older one is refused from here on
-- KEYS     meta lease:new lease:finish
-- ARGV     generation nonce durability
-- RETURNS  shard
-- CODES    OK MALFORMED FENCED
-- APPENDS  nothing
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/text.lua

-- The only script without a nonce: it is what makes one valid. It goes upward only.
local generation = int(ARGV[1])
if not generation then return {MALFORMED, 1} end
local meta = redis.call('HMGET', KEYS[1], 'generation', 'nonce', 'seq', 'settled', 'chain',
  'last_evict_seq', 'proof_ms', 'remnant', 'ahead_ms')
local current = stored(meta[1])
if generation < current or generation == current and meta[2] ~= ARGV[2] then
  return {FENCED, current}
end
local seq, settled = stored(meta[3]), stored(meta[4])
local evicted, proof_ms = stored(meta[6]), stored(meta[7])
local remnant = meta[8] and stored(meta[8]) or -1
redis.call('HSET', KEYS[1], 'generation', text(generation), 'nonce', ARGV[2], 'durability', ARGV[3])
redis.call('DEL', KEYS[2], KEYS[3])
-- With its lease goes the time at which it would have ended: the lease script misses none.
redis.call('HDEL', KEYS[1], 'lent_ms')
return {OK, seq, settled, meta[5] or '', evicted, proof_ms, remnant, meta[9] and 1 or 0}
