-- The rows of some shards ($1: their numbers), or of all where $1 is null, in order.
SELECT id, generation, nonce, mark, chain, boot_run_id, boot_replid, state, state_reason,
       proof_at, claimed_by, claimed_until
FROM shard
WHERE $1::smallint[] IS NULL OR id = ANY ($1)
ORDER BY id
