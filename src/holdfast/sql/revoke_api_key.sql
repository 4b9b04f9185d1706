-- Revoke an API key for good; revoked twice, it keeps the first time.
UPDATE api_key
SET revoked_at = coalesce(revoked_at, clock_timestamp())
WHERE id = $1
RETURNING id, digest, name, scopes, accounts, created_at, revoked_at
