-- For each asked (shard, account, key): the shard's mark and the newest record of the key, if any.
SELECT
    asked.account,
    asked.key,
    s.mark,
    r.state,
    (extract(epoch FROM r.ended_at) * 1000)::bigint AS ended_ms,
    r.fields
FROM unnest($1::smallint[], $2::text[], $3::text[]) AS asked (shard, account, key)
JOIN shard s ON s.id = asked.shard
LEFT JOIN LATERAL (
    SELECT state, ended_at, fields
    FROM record
    WHERE record.account = asked.account AND record.key = asked.key
    ORDER BY opened DESC
    LIMIT 1
) r ON true
