-- Gives an endpoint a new secret ($2); the old one signs as well for $3 seconds more.
UPDATE endpoint
SET old_secret = secret,
    old_secret_until = clock_timestamp() + make_interval(secs => $3),
    secret = $2
WHERE id = $1
RETURNING id, url, description, kinds, created_at, disabled_at, disabled_why, old_secret_until
