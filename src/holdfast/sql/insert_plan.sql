-- Makes a plan, where there is none of that name; answers its row, or none.
INSERT INTO plan (name, credits_per_period, period, rollover_cap, max_hold, daily_limit,
                  monthly_limit, max_open_holds, models, paid)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (name) DO NOTHING
RETURNING *
