-- The openings of a shard ($1) that were written with a month ($2).
SELECT account, version, last_seq, available, held, base, debt, granted, refunded, spent, forfeited
FROM opening WHERE shard = $1 AND month = $2
