-- Disables an endpoint for a reason ($2), as its receiver asked for it; no row where it was.
UPDATE endpoint
SET disabled_at = clock_timestamp(), disabled_why = $2
WHERE id = $1 AND disabled_at IS NULL
RETURNING url
