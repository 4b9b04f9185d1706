-- A shard's ($1) journal behind an entry ($2) up to another ($3), every column, in order.
SELECT * FROM journal WHERE shard = $1 AND seq > $2 AND seq <= $3 ORDER BY seq
