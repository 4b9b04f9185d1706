-- The journal rows of these (shard, seq), as far as they have settled, and the nonce of the
-- generation that their shard is in now. Of what is archived only that it had settled is known.
SELECT asked.shard, asked.seq, j.chain, j.account, j.version, shard.nonce, j.seq IS NULL AS archived
FROM unnest($1::smallint[], $2::bigint[]) AS asked (shard, seq)
JOIN shard ON shard.id = asked.shard
LEFT JOIN journal j ON j.shard = asked.shard AND j.seq = asked.seq
WHERE j.seq IS NOT NULL
    OR asked.seq <= (SELECT max(o.seq) FROM shard_opening o WHERE o.shard = asked.shard)
