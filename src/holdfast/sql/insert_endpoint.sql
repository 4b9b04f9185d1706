-- A new endpoint: url, description, kinds, secret; no row where there are $5 endpoints already.
INSERT INTO endpoint (url, description, kinds, secret)
SELECT $1, $2, $3, $4
WHERE (SELECT count(*) FROM endpoint) < $5
RETURNING id, url, description, kinds, created_at, disabled_at, disabled_why, old_secret_until
