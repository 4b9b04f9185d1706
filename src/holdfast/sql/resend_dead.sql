-- Sends dead deliveries again, at most $1, of endpoints that are there; answers their ids.
UPDATE delivery
SET state = 'pending', attempts = 0, ended_at = NULL,
    queued_at = clock_timestamp(), next_try_at = clock_timestamp()
WHERE id IN (
    SELECT id FROM delivery
    WHERE state = 'dead' AND endpoint IN (SELECT id FROM endpoint)
    ORDER BY id
    LIMIT $1
)
RETURNING id
