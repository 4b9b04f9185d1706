-- Allowances that are due on a UTC day ($1), at most $2, kept from other workers until the end of
-- the transaction; with the terms of their plans, and the end of the period that was given last.
-- Of an account that the journal does not know yet nothing is due.
SELECT w.account, w.next_at, p.name AS plan, p.credits_per_period, p.period, p.rollover_cap,
       coalesce(w.anchor, (a.opened_at AT TIME ZONE 'UTC')::date) AS anchor,
       a.status = 'closed' AS closed, last.period_end AS last_end
FROM allowance AS w
JOIN account AS a USING (account)
JOIN plan AS p ON p.name = w.plan
LEFT JOIN LATERAL (
    SELECT max(r.period_end) AS period_end FROM allowance_refresh AS r WHERE r.account = w.account
) AS last ON true
WHERE w.stopped_at IS NULL AND w.next_at <= $1
ORDER BY w.next_at, w.account
LIMIT $2
FOR UPDATE OF w SKIP LOCKED
