-- Entries of a time ($1 to $2) by shard.
SELECT shard, count(*) AS entries, max(seq) AS last
FROM journal WHERE at >= $1 AND at < $2 GROUP BY shard ORDER BY shard
