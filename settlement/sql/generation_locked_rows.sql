-- The rows of the shards ($1) that are to be vetted, kept from every settle until this transaction
-- ends; a settle that runs is waited for, so that marks read here are final. In shard order, as
-- everywhere. A stopped shard stays stopped unless an operator names it ($2).
SELECT id, generation, nonce, mark, chain, boot_run_id, boot_replid, state, proof_at
FROM shard
WHERE id = ANY ($1::smallint[]) AND (state <> 'stopped' OR id = ANY ($2::smallint[]))
ORDER BY id
FOR NO KEY UPDATE
