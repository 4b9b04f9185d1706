-- What of an account ($1) the journal has and the tables lack, in order.
SELECT id, shard, seq, chain, coalesce(mended, entry) AS entry
FROM quarantine
WHERE account = $1 AND state = 'open' AND origin IN ('rejected', 'follows')
ORDER BY seq
