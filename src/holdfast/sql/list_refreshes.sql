-- A page of an account's ($1) periods, newest first, before $2 (a day; null: from the newest), with
-- what became of their grants: failed if one has, pending if one is or is not known yet.
SELECT r.*,
       CASE WHEN r.missed THEN 'applied'
            WHEN o.failed THEN 'failed'
            WHEN o.pending OR r.rolled_over IS NULL THEN 'pending'
            ELSE 'applied' END AS state
FROM allowance_refresh AS r
LEFT JOIN LATERAL (
    SELECT bool_or(o.state = 'failed') AS failed, bool_or(o.state = 'pending') AS pending
    FROM outbox AS o
    WHERE o.account = r.account
      AND o.key IN ('allowance:' || to_char(r.period_start, 'YYYY-MM-DD'),
                    'rollover:' || to_char(r.period_start, 'YYYY-MM-DD'))
) AS o ON true
WHERE r.account = $1 AND ($2::date IS NULL OR r.period_start < $2)
ORDER BY r.period_start DESC
LIMIT $3
