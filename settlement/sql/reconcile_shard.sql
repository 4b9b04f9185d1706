-- Where a shard ($1) stands in this snapshot.
SELECT generation, nonce, mark, chain, state, state_reason FROM shard WHERE id = $1
