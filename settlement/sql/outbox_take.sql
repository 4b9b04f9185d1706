-- Take at most $1 rows of the outbox whose time has come, oldest first. Each is put off by 5 s at
-- once: until then no other worker takes it, and a worker that dies leaves it to be taken again.
UPDATE outbox
SET attempts = attempts + 1, next_try_at = clock_timestamp() + interval '5 s'
WHERE id IN (
    SELECT id FROM outbox
    WHERE state = 'pending' AND next_try_at <= clock_timestamp()
    ORDER BY next_try_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
RETURNING id, kind, account, key, origin, amount, source, priority, expires_at, metadata, attempts
