-- Expiring grants as they stand after a batch; those with nothing left go (grant_delete).
INSERT INTO account_grant (account, id, expires_at, priority, remaining)
SELECT account, id, to_timestamp(expires_ms / 1000.0::double precision), priority, remaining
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
    AS g (account, id, expires_ms, priority, remaining)
ON CONFLICT (account, id) DO UPDATE
SET expires_at = excluded.expires_at, priority = excluded.priority, remaining = excluded.remaining
