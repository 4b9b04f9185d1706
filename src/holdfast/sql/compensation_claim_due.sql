-- Claims, for $2 seconds, up to $1 compensations that are due and that nobody works on.
UPDATE compensation
SET
    attempts = attempts + 1,
    claimed_until = clock_timestamp() + $2 * interval '1 second'
WHERE id IN (
    SELECT id
    FROM compensation
    WHERE state = 'pending'
        AND next_try_at <= clock_timestamp()
        AND (claimed_until IS NULL OR claimed_until <= clock_timestamp())
    ORDER BY next_try_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
RETURNING *
