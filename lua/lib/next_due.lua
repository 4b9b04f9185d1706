-- KEYS[5] = due keeps, per account, the time of its next deadline; it may be early, never late. So
-- this is written first: where a damaged key refuses it, nothing has happened.
local function note_deadline(deadline)
  redis.call('ZADD', KEYS[5], 'LT', deadline, ARGV[1])
end
