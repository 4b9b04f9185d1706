-- Revoke an API key for good; revoked twice, it keeps the first time. `ended`: it was in force.
WITH before AS (
    SELECT id, revoked_at FROM api_key WHERE id = $1 FOR UPDATE
)
UPDATE api_key AS k
SET revoked_at = coalesce(before.revoked_at, clock_timestamp())
FROM before
WHERE k.id = before.id
RETURNING k.id, k.digest, k.name, k.scopes, k.accounts, k.created_at, k.revoked_at,
    before.revoked_at IS NULL AS ended
