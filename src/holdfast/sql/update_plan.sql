-- Changes the definition of a plan; answers its row. Its revision goes up only where something is
-- different, so that the same call again gives the worker nothing to do.
UPDATE plan AS p
SET credits_per_period = n.credits_per_period, period = n.period, rollover_cap = n.rollover_cap,
    max_hold = n.max_hold, daily_limit = n.daily_limit, monthly_limit = n.monthly_limit,
    max_open_holds = n.max_open_holds, models = n.models, paid = n.paid,
    revision = p.revision + n.different::integer,
    updated_at = CASE WHEN n.different THEN clock_timestamp() ELSE p.updated_at END
FROM (
    SELECT w.*,
           (q.credits_per_period, q.period, q.rollover_cap, q.max_hold, q.daily_limit,
            q.monthly_limit, q.max_open_holds, q.models, q.paid)
           IS DISTINCT FROM
           (w.credits_per_period, w.period, w.rollover_cap, w.max_hold, w.daily_limit,
            w.monthly_limit, w.max_open_holds, w.models, w.paid) AS different
    FROM plan AS q,
         (VALUES ($2::bigint, $3::text, $4::bigint, $5::bigint, $6::bigint, $7::bigint,
                  $8::bigint, $9::text[], $10::boolean))
         AS w (credits_per_period, period, rollover_cap, max_hold, daily_limit, monthly_limit,
               max_open_holds, models, paid)
    WHERE q.name = $1
) AS n
WHERE p.name = $1
RETURNING p.*
