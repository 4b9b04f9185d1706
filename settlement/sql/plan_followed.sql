-- Notes that an account ($1) on a plan ($2) has been brought from revision $3 to $4, and the limits
-- that go with it ($5 to $9). Answers nothing where the row is another by now.
UPDATE account_plan
SET revision = $4, max_hold = $5, daily_limit = $6, monthly_limit = $7, max_open_holds = $8,
    models = $9
WHERE account = $1 AND plan = $2 AND revision = $3
RETURNING account
