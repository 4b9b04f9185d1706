#!lua flags=allow-oom
-- PURPOSE  delete keys of a shard that is being rebuilt
-- KEYS     meta lease:new lease:finish key...
-- ARGV
-- RETURNS  count
-- CODES    OK FENCED BUSY
-- APPENDS  nothing
-- include: lib/codes.lua
-- include: lib/nonce.lua

if redis.call('HGET', KEYS[1], 'nonce') ~= NONCE then return {FENCED} end
-- A shard that holds a lease serves: nothing of it may go, whoever decided so and when.
if redis.call('EXISTS', KEYS[2], KEYS[3]) > 0 then return {BUSY} end
local gone = 0
for i = 4, #KEYS do gone = gone + redis.call('UNLINK', KEYS[i]) end
return {OK, gone}
