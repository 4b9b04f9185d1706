-- Accounts of some shards ($1) whose entries were rejected and that are not known to be frozen in
-- Redis; at most 100 a round.
SELECT min(id) AS id, min(shard) AS shard, account, min(seq) AS seq
FROM quarantine
WHERE shard = ANY ($1::smallint[]) AND state = 'open' AND origin = 'rejected' AND NOT frozen
  AND account <> ''
GROUP BY account
ORDER BY min(id)
LIMIT 100
