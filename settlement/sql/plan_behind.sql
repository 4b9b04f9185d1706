-- Accounts of some shards ($1) whose limits were written by an earlier revision of their plan than
-- is in force, at most $2, those in $3 aside: what was written, and (new_) what is to be.
SELECT a.account, a.plan, a.revision, p.revision AS new_revision,
       a.max_hold, a.daily_limit, a.monthly_limit, a.max_open_holds, a.models,
       p.max_hold AS new_max_hold, p.daily_limit AS new_daily_limit,
       p.monthly_limit AS new_monthly_limit, p.max_open_holds AS new_max_open_holds,
       p.models AS new_models
FROM plan AS p
CROSS JOIN LATERAL (
    SELECT * FROM account_plan AS a
    WHERE a.plan = p.name AND a.revision < p.revision
      AND a.shard = ANY ($1::smallint[]) AND a.account <> ALL ($3::text[])
    LIMIT $2
) AS a
LIMIT $2
