-- The next accounts of a shard ($1) after a name ($2), at most $3.
SELECT account FROM account WHERE shard = $1 AND account > $2 ORDER BY account LIMIT $3
