-- A generation above all that Postgres ($1 aside) and the reachable Redis ($2) ever had, for the
-- shards $1, under the nonce $3, because of $4. A shard whose keys are being deleted stays
-- `rebuilding`: if this vetter ends here too, the next one must not adopt what is left of it.
UPDATE shard
SET generation = greatest((SELECT max(generation) FROM shard), $2::bigint) + 1,
    nonce = $3,
    state = CASE WHEN state = 'rebuilding' THEN state ELSE 'vetting' END,
    state_reason = $4
WHERE id = ANY ($1::smallint[])
RETURNING id, generation
