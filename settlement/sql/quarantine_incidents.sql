-- The incidents about an account's ($1) rejected entries are dealt with, by $2.
UPDATE incident SET closed_at = clock_timestamp(), closed_by = $2
WHERE kind = 'quarantine' AND account = $1 AND closed_at IS NULL
