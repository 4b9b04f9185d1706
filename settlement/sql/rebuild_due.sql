-- Accounts of a shard ($1), after $2 in order, at most $3, with the time (ms since 1970) of the
-- first thing that will be due: the deadline of an open hold, the expiry of a live grant. Without
-- accounts under quarantine, which cannot be loaded to be swept.
SELECT account, min(at_ms) AS due_ms
FROM (
    SELECT account, (extract(epoch FROM deadline) * 1000)::bigint AS at_ms
    FROM record WHERE shard = $1 AND state = 'held'
    UNION ALL
    SELECT account, (extract(epoch FROM expires_at) * 1000)::bigint
    FROM account_grant JOIN account USING (account)
    WHERE account.shard = $1 AND account_grant.remaining > 0
) AS due JOIN account USING (account)
WHERE account > $2 AND NOT account.quarantined
GROUP BY account
ORDER BY account
LIMIT $3
