#!lua
-- PURPOSE  what reserve.lua writes, its entry included, with no check at all: for benches only
-- KEYS     meta lease:new lease:finish stream due acct open members record
-- ARGV     account context amount ttl_ms key
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local meta = redis.call('HMGET', KEYS[1], 'seq', 'chain')
local acct = redis.call('HMGET', KEYS[6], 'available', 'held', 'base', 'version', 'used_day',
  'used_month')
local amount, seq, version = tonumber(ARGV[3]), meta[1] + 1, acct[4] + 1
local available, held = acct[1] - amount, acct[2] + amount
local entry = string.format('{"type":"reserve","account":"%s","seq":"%d","version":"%d",'
  .. '"at":"%d","amount":"%d",'
  .. '"available":"%d","held":"%d","delta":["base","-%d","held","%d"],"key":"%s","opened":"%d",'
  .. '"day":"20260101",'
  .. '"used":"%d","record":["kind","hold","state","held","amount","%d","remaining","%d","made",'
  .. '"%d","deadline","%d",'
  .. '"fp","abcd....efgh............","opened","%d","result","%d %s %d %d %d %d"],"context":%s}',
  ARGV[1], seq, version, now, amount, available, held, amount, amount, ARGV[5], version, amount,
  amount, amount,
  now, now + ARGV[4], version, amount, ARGV[4], available, held, version, seq, ARGV[2])
local chain = redis.sha1hex(meta[2] .. entry)
redis.call('ZADD', KEYS[5], 'LT', now + ARGV[4], ARGV[1])
redis.call('XADD', KEYS[4], seq .. '-0', 'entry', entry, 'chain', chain)
redis.call('HSET', KEYS[1], 'seq', seq, 'chain', chain)
redis.call('HSET', KEYS[6], 'available', available, 'held', held, 'version', version, 'last_seq',
  seq,
  'base', acct[3] - amount, 'used_day', (acct[5] or 0) + amount, 'used_month',
  (acct[6] or 0) + amount)
redis.call('HSET', KEYS[9], 'kind', 'hold', 'state', 'held', 'amount', amount, 'remaining', amount,
  'made', now,
  'deadline', now + ARGV[4], 'fp', 'abcd....efgh............', 'opened', version,
  'result', amount .. ' ' .. ARGV[4] .. ' ' .. available .. ' ' .. held .. ' ' .. version .. ' '
  .. seq)
redis.call('ZADD', KEYS[7], now + ARGV[4], ARGV[5])
return {0, 'held', amount, 0, amount, 0, 0, now, now + ARGV[4], available, held, version, seq,
  chain, '', ''}
