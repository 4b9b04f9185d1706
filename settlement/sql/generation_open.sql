-- Open shards ($1) that were vetted under the nonce $2, in the Redis whose boot is $3, $4. Nothing
-- where another generation was declared since.
UPDATE shard
SET state = 'open', state_reason = '', boot_run_id = $3, boot_replid = $4
WHERE id = ANY (SELECT id FROM shard WHERE id = ANY ($1::smallint[])
                AND nonce = $2 AND state IN ('vetting', 'rebuilding') ORDER BY id FOR NO KEY UPDATE)
RETURNING id
