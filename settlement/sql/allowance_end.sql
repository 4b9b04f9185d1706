-- Ends the allowance of an account ($1) that is closed, or whose plan gives nothing any more.
UPDATE allowance SET stopped_at = clock_timestamp() WHERE account = $1
