-- Where the journal of a shard ($1) ends, under the nonce $2, and when that entry was settled. No
-- row: another generation was declared since.
SELECT shard.mark, shard.chain, journal.settled_at
FROM shard LEFT JOIN journal ON journal.shard = shard.id AND journal.seq = shard.mark
WHERE shard.id = $1 AND shard.nonce = $2
