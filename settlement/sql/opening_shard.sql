-- Where the journal of a shard ($1) begins: its last archived entry and the chain of that; as it
-- was before a month ($2), if one is given.
SELECT seq, chain FROM shard_opening
WHERE shard = $1 AND ($2::date IS NULL OR month < $2)
ORDER BY month DESC LIMIT 1
