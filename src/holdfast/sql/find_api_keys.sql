-- The keys of these ids that are in force; who asks compares the digests.
SELECT id, digest, name, scopes, accounts, created_at, revoked_at
FROM api_key
WHERE id = ANY ($1::text[]) AND revoked_at IS NULL
