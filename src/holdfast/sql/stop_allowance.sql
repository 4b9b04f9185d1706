-- Stops the allowance of an account ($1); what it has given stays. Answers nothing where none was
-- there to stop.
UPDATE allowance SET stopped_at = clock_timestamp()
WHERE account = $1 AND stopped_at IS NULL
RETURNING account
