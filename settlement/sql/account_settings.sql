-- Settings that a batch changes: $1 accounts, $2 an object of names and texts each; '' clears one.
UPDATE account AS a
SET status = CASE WHEN c.s ? 'status' THEN coalesce(nullif(c.s ->> 'status', ''), 'active')
                  ELSE a.status END,
    plan = CASE WHEN c.s ? 'plan' THEN nullif(c.s ->> 'plan', '') ELSE a.plan END,
    models = CASE WHEN c.s ? 'models' THEN nullif(c.s ->> 'models', '') ELSE a.models END,
    metadata = CASE WHEN c.s ? 'metadata' THEN nullif(c.s ->> 'metadata', '') ELSE a.metadata END,
    overdraft_limit = CASE WHEN c.s ? 'overdraft_limit'
                           THEN nullif(c.s ->> 'overdraft_limit', '')::bigint
                           ELSE a.overdraft_limit END,
    daily_limit = CASE WHEN c.s ? 'daily_limit' THEN nullif(c.s ->> 'daily_limit', '')::bigint
                       ELSE a.daily_limit END,
    monthly_limit = CASE WHEN c.s ? 'monthly_limit' THEN nullif(c.s ->> 'monthly_limit', '')::bigint
                         ELSE a.monthly_limit END,
    max_hold = CASE WHEN c.s ? 'max_hold' THEN nullif(c.s ->> 'max_hold', '')::bigint
                    ELSE a.max_hold END,
    max_open_holds = CASE WHEN c.s ? 'max_open_holds'
                          THEN nullif(c.s ->> 'max_open_holds', '')::bigint
                          ELSE a.max_open_holds END,
    low_balance = CASE WHEN c.s ? 'low_balance' THEN nullif(c.s ->> 'low_balance', '')::bigint
                       ELSE a.low_balance END,
    balance_level = CASE WHEN c.s ->> 'low_balance' = '' THEN 'ok' ELSE a.balance_level END
FROM unnest($1::text[], $2::jsonb[]) AS c (account, s)
WHERE a.account = c.account
