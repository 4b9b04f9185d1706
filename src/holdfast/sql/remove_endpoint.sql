-- Removes an endpoint; what was still on its way to it is sent no more.
DELETE FROM endpoint
WHERE id = $1
RETURNING id, url, description, kinds, created_at, disabled_at, disabled_why, old_secret_until
