-- A page of allowances by account, after $1, stopped ones too.
SELECT w.*, p.credits_per_period, p.period, p.rollover_cap
FROM allowance AS w JOIN plan AS p ON p.name = w.plan
WHERE w.account > $1
ORDER BY w.account
LIMIT $2
