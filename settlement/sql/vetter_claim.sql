-- Become the vetter, if nobody is. The key is holdfast's own word in ASCII, so that it is nobody
-- else's by accident; a session's advisory lock is given back when the session ends.
SELECT pg_try_advisory_lock(7525352681098278004)
