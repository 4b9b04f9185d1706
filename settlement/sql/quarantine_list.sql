-- A page of quarantined entries, newest first: of one account ($1) or all, open ones only ($2),
-- before one ($3), at most $4.
SELECT id, at, origin, shard, seq, generation, account, entry, mended, chain, error, state, frozen,
       correction, ended_at, ended_by
FROM quarantine
WHERE ($1::text IS NULL OR account = $1) AND (NOT $2 OR state = 'open')
  AND ($3::bigint IS NULL OR id < $3)
ORDER BY id DESC
LIMIT $4
