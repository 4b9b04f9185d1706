-- All of an account's ($1) journal behind what is archived ($2), in order.
SELECT shard, seq, account, version, available, held, quarantined, chain, entry
FROM journal WHERE account = $1 AND seq > $2 ORDER BY seq
