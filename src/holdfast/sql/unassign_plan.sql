-- Notes that an account ($1) follows no plan any more, since entry $2. Answers nothing where it
-- followed none, or where a later entry was noted within the last minute (assign_plan).
DELETE FROM account_plan
WHERE account = $1
  AND (seq <= $2 OR assigned_at < clock_timestamp() - interval '1 minute')
RETURNING account
