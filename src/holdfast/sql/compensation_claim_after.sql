-- Claims, for $2 seconds, up to $1 compensations whose id is above $3, due or not, by id.
UPDATE compensation
SET
    attempts = attempts + 1,
    claimed_until = clock_timestamp() + $2 * interval '1 second'
WHERE id IN (
    SELECT id
    FROM compensation
    WHERE state = 'pending'
        AND id > $3
        AND (claimed_until IS NULL OR claimed_until <= clock_timestamp())
    ORDER BY id
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
RETURNING *
