-- The account as stored: its fields, flat, and how many holds are open (KEYS[7] = open).
local function account_reply(code, seq, chain)
  return {code, seq, chain, redis.call('ZCARD', KEYS[7]), redis.call('HGETALL', ACCT)}
end
