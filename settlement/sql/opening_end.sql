-- The last entry of a shard ($1) that was archived with a month ($2), and its chain.
SELECT seq, chain FROM shard_opening WHERE shard = $1 AND month = $2
