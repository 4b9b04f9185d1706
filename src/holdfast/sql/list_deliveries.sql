-- Deliveries, newest first: of one state ($1), to one endpoint ($2), below one id ($3), each where
-- it is given; at most $4.
SELECT d.id, d.event, event.kind, event.account, d.endpoint, d.state, d.attempts, d.queued_at,
       d.next_try_at, d.ended_at, d.last_status, d.last_error
FROM delivery AS d
JOIN event ON event.id = d.event
WHERE ($1::text IS NULL OR d.state = $1)
    AND ($2::text IS NULL OR d.endpoint = $2)
    AND ($3::bigint IS NULL OR d.id < $3)
ORDER BY d.id DESC
LIMIT $4
