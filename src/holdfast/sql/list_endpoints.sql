-- A page of all endpoints, disabled ones too, by id, without their secrets.
SELECT id, url, description, kinds, created_at, disabled_at, disabled_why, old_secret_until
FROM endpoint
WHERE id > $1
ORDER BY id
LIMIT $2
