-- What the journal has under some numbers ($2) of a shard ($1), to be compared with what was read.
SELECT seq, chain FROM journal WHERE shard = $1 AND seq = ANY ($2::bigint[])
