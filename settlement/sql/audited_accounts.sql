-- What accounts ($1) are set to before a batch changes it.
SELECT account, status, overdraft_limit, daily_limit, monthly_limit, max_hold, max_open_holds,
       low_balance, plan, models, metadata
FROM account
WHERE account = ANY ($1::text[])
