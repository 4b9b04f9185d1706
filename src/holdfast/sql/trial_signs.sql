-- Active trials from account $1 on, at most $2, by account: whether each has expired, and what says
-- that the account pays. `metadata` is there only where it may name a customer or a subscription.
-- A payment that was refused credited nothing here, and may yet be another account's.
-- (LIMIT 1 has Postgres look each account up by index; else it may read all purchases every time.)
SELECT
    t.account,
    coalesce(t.expires_at <= clock_timestamp(), false) AS expired,
    (SELECT true FROM plan AS p WHERE p.paid AND p.name IN (a.plan, f.plan) LIMIT 1)
        IS NOT NULL AS paid_plan,
    (SELECT true FROM allowance AS w WHERE w.account = t.account LIMIT 1) IS NOT NULL AS allowance,
    (SELECT true FROM purchase AS b WHERE b.account = t.account AND NOT b.refused LIMIT 1)
        IS NOT NULL AS purchase,
    CASE WHEN a.metadata ~ '(customer|subscription)_id' THEN a.metadata END AS metadata,
    coalesce(a.overdraft_limit, 0) AS overdraft_limit
FROM (
    SELECT account, expires_at FROM trial
    WHERE state = 'active' AND account >= $1
    ORDER BY account
    LIMIT $2
) AS t
LEFT JOIN LATERAL (
    SELECT plan, metadata, overdraft_limit FROM account WHERE account = t.account LIMIT 1
) AS a ON true
LEFT JOIN LATERAL (
    SELECT plan FROM account_plan WHERE account = t.account LIMIT 1
) AS f ON true
ORDER BY t.account
