-- Rows $1 of the outbox are done: the journal has their entries. Also one that had been given up.
UPDATE outbox
SET state = 'applied', applied_at = clock_timestamp(), error = NULL
WHERE id = ANY ($1::bigint[]) AND state <> 'applied'
