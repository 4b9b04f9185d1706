-- All of a shard's ($1) journal, in order, for its chain to be computed again.
SELECT seq, account, version, available, held, quarantined, chain, entry
FROM journal WHERE shard = $1 ORDER BY seq
