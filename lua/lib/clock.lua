-- The one clock of a script: Redis's own, read once, in milliseconds since 1970 UTC. Gives `now`.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
