-- Sends to an endpoint again.
UPDATE endpoint
SET disabled_at = NULL, disabled_why = NULL
WHERE id = $1
RETURNING id, url, description, kinds, created_at, disabled_at, disabled_why, old_secret_until
