-- Notes what was carried into the period of an account ($1) that begins on $2: rolled over ($3), or
-- lapsed ($4) where that period is over.
UPDATE allowance_refresh SET rolled_over = $3, lapsed = $4
WHERE account = $1 AND period_start = $2
