-- An account ($1) is frozen in Redis: its rejected entries need no more of that.
UPDATE quarantine SET frozen = true
WHERE account = $1 AND state = 'open' AND origin = 'rejected'
