-- The allowance of an account ($1), with what its plan gives.
SELECT w.*, p.credits_per_period, p.period, p.rollover_cap
FROM allowance AS w JOIN plan AS p ON p.name = w.plan
WHERE w.account = $1
