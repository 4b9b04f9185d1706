-- The journal has the effects of compensations $1. Also one that had been given up.
UPDATE compensation
SET state = 'applied', applied_at = clock_timestamp(), claimed_until = NULL, error = NULL
WHERE id = ANY ($1::bigint[]) AND state <> 'applied'
