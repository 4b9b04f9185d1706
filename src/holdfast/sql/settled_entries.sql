-- The journal rows of these (shard, seq), as far as they have settled, and the nonce of the
-- generation that their shard is in now.
SELECT j.shard, j.seq, j.chain, j.account, j.version, shard.nonce
FROM unnest($1::smallint[], $2::bigint[]) AS asked (shard, seq)
JOIN journal j ON j.shard = asked.shard AND j.seq = asked.seq
JOIN shard ON shard.id = j.shard
