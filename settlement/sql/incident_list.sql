-- Incidents, newest first: all or only open ones ($1), numbers below $2 (null: from the newest), at
-- most $3.
SELECT id, at, kind, shard, account, summary, details, closed_at, closed_by
FROM incident
WHERE (closed_at IS NULL OR NOT $1::boolean) AND ($2::bigint IS NULL OR id < $2)
ORDER BY id DESC
LIMIT $3
