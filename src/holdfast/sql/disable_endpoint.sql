-- Sends nothing more to an endpoint, for a reason; one that is disabled keeps its first reason.
UPDATE endpoint
SET disabled_at = coalesce(disabled_at, clock_timestamp()),
    disabled_why = coalesce(disabled_why, $2)
WHERE id = $1
RETURNING id, url, description, kinds, created_at, disabled_at, disabled_why, old_secret_until
