-- KEYS[5] = due keeps, per account, the time of its next deadline; it may be early, never late.

-- The score that `due` has for this account (read before any write, so that a damaged key refuses).
local function due_score()
  return tonumber(redis.call('ZSCORE', KEYS[5], ARGV[1]) or math.huge)
end

local function note_deadline(score, deadline)
  if deadline < score then redis.call('ZADD', KEYS[5], text(deadline), ARGV[1]) end
end
