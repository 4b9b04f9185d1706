-- A page of all API keys, revoked ones too, by id.
SELECT id, digest, name, scopes, accounts, created_at, revoked_at
FROM api_key
WHERE id > $1
ORDER BY id
LIMIT $2
