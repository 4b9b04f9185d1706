-- Limits of members as a batch leaves them; null is no limit.
INSERT INTO member (account, member, daily_limit, monthly_limit, max_hold)
SELECT account, member, daily_limit, monthly_limit, max_hold
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
    AS m (account, member, daily_limit, monthly_limit, max_hold)
ON CONFLICT (account, member) DO UPDATE
SET daily_limit = excluded.daily_limit, monthly_limit = excluded.monthly_limit,
    max_hold = excluded.max_hold
