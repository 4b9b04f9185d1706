-- Locks a shard ($1) if it is still in this generation ($2), nonce ($3), mark ($4) and one of the
-- states ($5); no row otherwise.
SELECT id FROM shard
WHERE id = $1 AND generation = $2 AND nonce = $3 AND mark = $4 AND state = ANY ($5::text[])
FOR NO KEY UPDATE
