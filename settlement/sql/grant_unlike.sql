-- Accounts ($1) whose expiring grants do not add up to what their balance says is in grants.
SELECT a.account, a.in_grants, coalesce(sum(g.remaining), 0)::bigint AS in_rows
FROM account AS a LEFT JOIN account_grant AS g USING (account)
WHERE a.account = ANY ($1::text[])
GROUP BY a.account
HAVING a.in_grants <> coalesce(sum(g.remaining), 0)
LIMIT 3
