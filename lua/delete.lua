#!lua flags=allow-oom
-- PURPOSE  delete keys of a shard that is being rebuilt
-- KEYS     meta lease:new lease:finish key...
-- ARGV     mark
-- RETURNS  count
-- CODES    OK MALFORMED FENCED BUSY
-- APPENDS  nothing
-- include: lib/codes.lua
-- include: lib/number.lua
-- include: lib/text.lua
-- include: lib/nonce.lua

local mark = int(ARGV[1])
if not mark then return {MALFORMED, 1} end
if redis.call('HGET', KEYS[1], 'nonce') ~= NONCE then return {FENCED} end
-- A shard that holds a lease serves: nothing of it may go, whoever decided so and when.
if redis.call('EXISTS', KEYS[2], KEYS[3]) > 0 then return {BUSY} end
-- From here on this is a remnant, whatever Postgres will remember of the rebuild: never adopted,
-- and not to be started below the mark that the journal had when the rebuild was decided.
redis.call('HSET', KEYS[1], 'remnant', text(mark))
local gone = 0
for i = 4, #KEYS do gone = gone + redis.call('UNLINK', KEYS[i]) end
return {OK, gone}
