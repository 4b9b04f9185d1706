-- The next $2 periods after account $1 that wait for what was left of the one before, and whether
-- it can be known yet: the last settled entry of the account is of the new period, so that the
-- journal has all of the old one; of each account the first period. All that wait are answered, so
-- that a look costs the same however many of them cannot be decided. Kept from other workers until
-- the end of the transaction.
SELECT r.account, r.period_start, r.period_end, r.plan, r.rollover_cap,
    NOT a.quarantined
    AND EXISTS (
        SELECT FROM journal AS j
        WHERE j.shard = a.shard AND j.seq = a.last_seq
          AND j.at >= r.period_start::timestamp AT TIME ZONE 'UTC')
    AND NOT EXISTS (
        SELECT FROM allowance_refresh AS e
        WHERE e.account = r.account AND e.period_start < r.period_start AND e.rolled_over IS NULL)
    AS ready
FROM allowance_refresh AS r
JOIN account AS a USING (account)
WHERE r.rolled_over IS NULL AND r.account > $1
ORDER BY r.account
LIMIT $2
FOR UPDATE OF r SKIP LOCKED
