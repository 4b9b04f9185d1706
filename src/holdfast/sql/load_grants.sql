-- Expiring grants of the account that still have something.
SELECT id, (extract(epoch FROM expires_at) * 1000)::bigint AS expires_ms, priority, remaining
FROM account_grant
WHERE account = $1 AND remaining > 0
ORDER BY expires_at, priority, id
