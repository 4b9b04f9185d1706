-- What the accounts of a shard ($1), or one of them ($2), had at the end of what is archived; as it
-- was before a month ($3), if one is given.
SELECT DISTINCT ON (account) account, version, last_seq, available, held, base, debt, granted,
       refunded, spent, forfeited
FROM opening
WHERE shard = $1 AND ($2::text IS NULL OR account = $2) AND ($3::date IS NULL OR month < $3)
ORDER BY account, month DESC
