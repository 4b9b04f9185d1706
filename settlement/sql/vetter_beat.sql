-- The vetter's session is not idle.
SELECT 1
