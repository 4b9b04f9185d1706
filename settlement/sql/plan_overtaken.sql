-- Notes that limits ($2 their names; $3 to $7 the values) were written into an account ($1) that
-- was given another plan or revision at the same time: they are what was written last, perhaps, and
-- it is to be looked at anew.
UPDATE account_plan
SET revision = 0,
    max_hold = CASE WHEN 'max_hold' = ANY ($2::text[]) THEN $3 ELSE max_hold END,
    daily_limit = CASE WHEN 'daily_limit' = ANY ($2::text[]) THEN $4 ELSE daily_limit END,
    monthly_limit = CASE WHEN 'monthly_limit' = ANY ($2::text[]) THEN $5 ELSE monthly_limit END,
    max_open_holds = CASE WHEN 'max_open_holds' = ANY ($2::text[]) THEN $6 ELSE max_open_holds END,
    models = CASE WHEN 'models' = ANY ($2::text[]) THEN $7 ELSE models END
WHERE account = $1
