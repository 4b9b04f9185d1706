-- Notes that an account ($1, of shard $2) follows a plan ($3), and what of it entry $10 wrote into
-- the account's settings: revision $4, max_hold $5, daily_limit $6, monthly_limit $7,
-- max_open_holds $8, models $9. Answers nothing where a later entry was noted within the last
-- minute: then this one is overtaken.
-- (Older ones do not count: Redis may have lost its last entries, and given their numbers anew.)
INSERT INTO account_plan AS a (account, shard, plan, revision, max_hold, daily_limit, monthly_limit,
                               max_open_holds, models, seq)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (account) DO UPDATE
SET plan = excluded.plan, revision = excluded.revision, max_hold = excluded.max_hold,
    daily_limit = excluded.daily_limit, monthly_limit = excluded.monthly_limit,
    max_open_holds = excluded.max_open_holds, models = excluded.models, seq = excluded.seq,
    assigned_at = clock_timestamp()
WHERE excluded.seq >= a.seq OR a.assigned_at < clock_timestamp() - interval '1 minute'
RETURNING account
