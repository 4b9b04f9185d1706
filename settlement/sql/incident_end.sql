-- What an incident of kind $1 about the subject $2 was about is over.
UPDATE incident SET closed_at = clock_timestamp(), closed_by = 'worker'
WHERE closed_at IS NULL AND kind = $1 AND details ->> 'subject' = $2
