-- The expiring grants of some accounts ($1), times in ms since 1970.
SELECT account, id, round(extract(epoch FROM expires_at) * 1000)::bigint AS expires_ms, priority,
       remaining
FROM account_grant WHERE account = ANY ($1::text[])
