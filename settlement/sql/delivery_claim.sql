-- Claims deliveries that are due for $3 seconds: of each endpoint ($1) as many as this worker has
-- room for ($2), the longest due first; another worker's are left to it.
WITH due AS (
    SELECT found.id
    FROM unnest($1::text[], $2::integer[]) AS wanted (endpoint, room)
    CROSS JOIN LATERAL (
        SELECT id
        FROM delivery
        WHERE endpoint = wanted.endpoint AND state = 'pending'
            AND next_try_at <= statement_timestamp()
        ORDER BY next_try_at
        LIMIT wanted.room
        FOR UPDATE SKIP LOCKED
    ) AS found
)
UPDATE delivery AS d
SET next_try_at = statement_timestamp() + make_interval(secs => $3)
FROM due, event
WHERE d.id = due.id AND event.id = d.event
RETURNING d.id, d.endpoint, d.attempts, event.id AS event, event.kind, event.at, event.account,
          event.data::text AS data
