-- How an attempt ended: the state that the delivery ($1) is in now ($2), the status that was
-- answered ($3), the fault ($4), and in how many seconds the next attempt is due ($5). One that is
-- over by another worker's attempt stays as it is.
UPDATE delivery
SET state = $2,
    attempts = attempts + 1,
    last_status = $3,
    last_error = $4,
    next_try_at = clock_timestamp() + make_interval(secs => $5),
    ended_at = CASE WHEN $2 <> 'pending' THEN clock_timestamp() END
WHERE id = $1 AND state = 'pending'
