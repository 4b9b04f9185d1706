-- All of a shard's ($1) journal behind what is archived ($2), in order, for its chain to be
-- computed again.
SELECT seq, account, version, available, held, quarantined, chain, entry
FROM journal WHERE shard = $1 AND seq > $2 ORDER BY seq
