-- Move a shard ($1) that is vetted under the nonce $2 to another state ($3), because of $4.
UPDATE shard SET state = $3, state_reason = $4 WHERE id = $1 AND nonce = $2 RETURNING id
