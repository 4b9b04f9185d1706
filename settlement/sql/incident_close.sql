-- An operator ($2) closes an open incident.
UPDATE incident SET closed_at = clock_timestamp(), closed_by = $2
WHERE id = $1 AND closed_at IS NULL
RETURNING kind, account, summary
