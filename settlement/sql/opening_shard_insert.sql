-- Where shards ($2) begin behind a month ($1): the last archived entry ($3) and its chain ($4).
INSERT INTO shard_opening (month, shard, seq, chain)
SELECT $1, o.* FROM unnest($2::smallint[], $3::bigint[], $4::text[]) AS o (shard, seq, chain)
