-- Look at row $1 of the outbox again after $2 seconds; $3 is why it is not done (null: it is on its
-- way to the journal).
UPDATE outbox
SET next_try_at = clock_timestamp() + make_interval(secs => $2), error = $3
WHERE id = $1 AND state = 'pending'
