-- Ends the trial of an account ($1), by whom ($2) and why ($3). Answers nothing where none was
-- active.
UPDATE trial SET state = 'ended', ended_at = clock_timestamp(), ended_by = $2, reason = $3
WHERE account = $1 AND state = 'active'
RETURNING account
