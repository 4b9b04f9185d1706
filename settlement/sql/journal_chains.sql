-- What the journal has under some numbers ($2) of a shard ($1), to be compared with what was read.
-- Of what is archived that is the chain of the last entry of each month.
SELECT seq, chain FROM journal WHERE shard = $1 AND seq = ANY ($2::bigint[])
UNION ALL
SELECT seq, chain FROM shard_opening WHERE shard = $1 AND seq = ANY ($2::bigint[])
