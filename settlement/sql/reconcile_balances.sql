-- Every account of a shard ($1) as the folded journal must have it.
SELECT account, version, last_seq, available, held, base, debt, granted, refunded, spent, forfeited,
       quarantined
FROM account WHERE shard = $1
