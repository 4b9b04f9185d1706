-- Open shards ($1) that were vetted under the nonce $2, in the Redis whose boot is $3, $4. A shard
-- stays as it is where another generation was declared since, or where its journal ends before the
-- entry up to which this vetting has it ($5): Postgres has lost some in between.
UPDATE shard
SET state = 'open', state_reason = '', boot_run_id = $3, boot_replid = $4
WHERE id = ANY (SELECT id FROM shard
                JOIN unnest($1::smallint[], $5::bigint[]) AS vetted (id, mark) USING (id)
                WHERE nonce = $2 AND state IN ('vetting', 'rebuilding')
                  AND shard.mark >= vetted.mark
                ORDER BY id FOR NO KEY UPDATE OF shard)
RETURNING id
