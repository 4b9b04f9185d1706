-- Proof of life, before a lease: of the shards ($1) that worker $3 claims and that are still open
-- under the nonces ($2) it knows. Rows in shard order, as everywhere, so that nobody waits for each
-- other in a circle. The clock is read after every wait for a row.
WITH mine AS (
    SELECT shard.id
    FROM shard JOIN unnest($1::smallint[], $2::text[]) AS held (id, nonce) USING (id, nonce)
    WHERE shard.state = 'open' AND shard.claimed_by = $3
    ORDER BY shard.id
    FOR NO KEY UPDATE OF shard
), proven AS (
    UPDATE shard SET proof_at = clock_timestamp() FROM mine WHERE shard.id = mine.id
    RETURNING shard.id
)
SELECT coalesce(array_agg(id), '{}') AS ids,
       (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms
FROM proven
