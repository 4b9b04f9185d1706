-- All of an account's ($1) journal, in order.
SELECT shard, seq, account, version, available, held, quarantined, chain, entry
FROM journal WHERE account = $1 ORDER BY seq
