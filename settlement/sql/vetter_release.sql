-- Cease to be the vetter.
SELECT pg_advisory_unlock(7525352681098278004)
