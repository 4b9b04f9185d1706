-- Sends a delivery again that is over, with all its attempts; no row where it is not there, is on
-- its way, or its endpoint was removed.
UPDATE delivery AS d
SET state = 'pending', attempts = 0, ended_at = NULL,
    queued_at = clock_timestamp(), next_try_at = clock_timestamp()
FROM event
WHERE d.id = $1 AND d.state <> 'pending' AND event.id = d.event
    AND EXISTS (SELECT FROM endpoint WHERE endpoint.id = d.endpoint)
RETURNING d.id, d.event, event.kind, event.account, d.endpoint, d.state, d.attempts, d.queued_at,
          d.next_try_at, d.ended_at, d.last_status, d.last_error
