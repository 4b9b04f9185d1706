-- How many entries of a shard ($1) up to its last archived one ($2) the journal still has.
SELECT count(*) FROM journal WHERE shard = $1 AND seq <= $2
