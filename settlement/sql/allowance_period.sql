-- Periods of an account ($1) on a plan ($2) whose carrying over is capped by $3: $4 first days, $5
-- ends, $6 credits, $7 missed or not, $8 what was carried over, null where that is not known yet.
INSERT INTO allowance_refresh (account, plan, rollover_cap, period_start, period_end, credits,
                               missed, rolled_over)
SELECT $1, $2, $3, p.*
FROM unnest($4::date[], $5::date[], $6::bigint[], $7::boolean[], $8::bigint[]) AS p
