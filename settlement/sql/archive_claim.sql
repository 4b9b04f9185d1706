-- Become the one who archives, if nobody is. The key is arbitrary and holdfast's own; the session
-- holds it.
SELECT pg_try_advisory_lock(4739208)
