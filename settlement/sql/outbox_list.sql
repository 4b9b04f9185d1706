-- Rows of the outbox, newest first: in state $1 (null: in any), numbers below $2 (null: from the
-- newest), at most $3.
SELECT id, kind, account, key, origin, amount, source, priority, expires_at, metadata, state,
    attempts, next_try_at, error, created_at, applied_at
FROM outbox
WHERE ($1::text IS NULL OR state = $1) AND ($2::bigint IS NULL OR id < $2)
ORDER BY id DESC
LIMIT $3
