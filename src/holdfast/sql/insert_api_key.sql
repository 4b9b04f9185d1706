-- A new API key; of the token only the SHA-256 digest is kept.
INSERT INTO api_key (id, digest, name, scopes, accounts)
VALUES ($1, $2, $3, $4, $5)
RETURNING id, digest, name, scopes, accounts, created_at, revoked_at
