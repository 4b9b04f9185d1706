-- Open holds of the account, each as the Redis hash that it was.
SELECT key, (extract(epoch FROM deadline) * 1000)::bigint AS deadline_ms, fields
FROM record
WHERE account = $1 AND state = 'held'
ORDER BY key
