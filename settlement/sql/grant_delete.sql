-- Expiring grants that a batch used up or that were forfeited.
DELETE FROM account_grant AS g
USING unnest($1::text[], $2::text[]) AS gone (account, id)
WHERE g.account = gone.account AND g.id = gone.id
