#!lua
-- PURPOSE  let a shard go on from its Redis's present time, where it has recorded a later one
-- KEYS     meta lease:new lease:finish
-- ARGV     taken_ms
-- RETURNS  count
-- CODES    OK MALFORMED FENCED CLOCK
-- APPENDS  nothing
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/text.lua
-- include: lib/nonce.lua

-- `taken_ms` is a TIME that agreed with Postgres's. Where the caller was stopped since then, or the
-- clock has moved again, nothing is changed.
local AGREED_MS = 2000
local taken = int(ARGV[1])
if not taken then return {MALFORMED, 1} end
local meta = redis.call('HMGET', KEYS[1], 'nonce', 'clock_ms')
if meta[1] ~= NONCE then return {FENCED} end
-- include: lib/clock.lua
local recorded = stored(meta[2])
if math.abs(now - taken) > AGREED_MS then return {CLOCK} end
if now >= recorded - CLOCK_SLACK_MS then return {OK, 0} end

-- Redis ends a key at a moment, not after a while: leases that were lent ahead of time would last
-- until the clock is there again. Only the recorded time keeps them from counting.
redis.call('DEL', KEYS[2], KEYS[3])
-- Keys that ended by that time have gone early: the shard is rebuilt before it serves.
redis.call('HSET', KEYS[1], 'clock_ms', text(now), 'ahead_ms', text(recorded))
return {OK, recorded}
