-- What the account's keys did that ended inside the window, newest row of each key; at most $3.
SELECT key, (extract(epoch FROM ended_at) * 1000)::bigint AS ended_ms, fields
FROM record
WHERE account = $1 AND ended_at > $2
ORDER BY ended_at DESC, key, opened DESC
LIMIT $3
