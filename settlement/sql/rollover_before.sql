-- The periods of an account ($1) before the one that begins on $2, newest first, at most $3, with
-- what became of their grants: one that failed counts as missed, or lapsed.
SELECT r.period_start, r.period_end, r.credits, r.granted, r.rollover_cap,
       r.missed OR coalesce(whole.state = 'failed', false) AS missed,
       CASE WHEN rest.state = 'failed' THEN 0 ELSE r.rolled_over END AS rolled_over,
       CASE WHEN rest.state = 'failed' THEN r.rolled_over ELSE r.lapsed END AS lapsed
FROM allowance_refresh AS r
LEFT JOIN outbox AS whole ON whole.account = r.account
    AND whole.key = 'allowance:' || to_char(r.period_start, 'YYYY-MM-DD')
LEFT JOIN outbox AS rest ON rest.account = r.account
    AND rest.key = 'rollover:' || to_char(r.period_start, 'YYYY-MM-DD')
WHERE r.account = $1 AND r.period_start < $2
ORDER BY r.period_start DESC
LIMIT $3
