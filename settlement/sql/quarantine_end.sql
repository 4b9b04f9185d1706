-- Entries ($1: ids) are over: $2 the state each, $3 what was booked instead, by whom ($4).
UPDATE quarantine AS q
SET state = e.state, correction = e.correction, ended_at = clock_timestamp(), ended_by = $4
FROM unnest($1::bigint[], $2::text[], $3::jsonb[]) AS e (id, state, correction)
WHERE q.id = e.id
