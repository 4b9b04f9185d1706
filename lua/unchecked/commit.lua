#!lua
-- PURPOSE  what commit.lua writes, its entry included, with no check at all: for benches only
-- KEYS     meta lease:new lease:finish stream due acct open members record
-- ARGV     account context amount window_ms key
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local meta = redis.call('HMGET', KEYS[1], 'seq', 'chain')
local acct = redis.call('HMGET', KEYS[6], 'available', 'held', 'base', 'version', 'used_day',
  'used_month')
local rec = redis.call('HMGET', KEYS[9], 'amount', 'opened', 'made', 'deadline')
local take, whole, seq, version = tonumber(ARGV[3]), tonumber(rec[1]), meta[1] + 1, acct[4] + 1
local available, held, rest = acct[1] + whole - take, acct[2] - whole, whole - take
local op = string.format('commit abcdefgh........ %d %d %d %d', available, held, version, seq)
local entry = string.format('{"type":"commit","account":"%s","seq":"%d","version":"%d",'
  .. '"at":"%d","amount":"%d",'
  .. '"available":"%d","held":"%d","delta":["base","%d","held","-%d","spent","%d"],"hold":"%s",'
  .. '"opened":"%s",'
  .. '"day":"20260101","used":"%d","record":["committed","%d","remaining","0","state",'
  .. '"committed","ended","%d",'
  .. '"op:","%s","ops","1"],"context":%s}',
  ARGV[1], seq, version, now, take, available, held, rest, whole, take, ARGV[5], rec[2], -rest,
  take, now, op, ARGV[2])
local chain = redis.sha1hex(meta[2] .. entry)
redis.call('XADD', KEYS[4], seq .. '-0', 'entry', entry, 'chain', chain)
redis.call('HSET', KEYS[1], 'seq', seq, 'chain', chain)
redis.call('HSET', KEYS[6], 'available', available, 'held', held, 'version', version, 'last_seq',
  seq,
  'base', acct[3] + rest, 'used_day', (acct[5] or 0) - rest, 'used_month', (acct[6] or 0) - rest)
redis.call('HINCRBY', KEYS[6], 'spent', take)
redis.call('HSET', KEYS[9], 'committed', take, 'remaining', 0, 'state', 'committed', 'ended', now,
  'op:', op, 'ops', 1)
redis.call('PEXPIREAT', KEYS[9], now + ARGV[4])
redis.call('ZREM', KEYS[7], ARGV[5])
return {0, 'committed', whole, take, 0, 0, 0, tonumber(rec[3]), tonumber(rec[4]), available, held,
  version, seq,
  chain, '', ''}
