-- For each asked (shard, account, key): the shard's mark, the newest record of the key, if any, and
-- whether the account is in quarantine: then the mark says nothing of its entries.
SELECT
    asked.account,
    asked.key,
    s.mark,
    r.state,
    (extract(epoch FROM r.ended_at) * 1000)::bigint AS ended_ms,
    r.fields,
    coalesce(a.quarantined, false) AS quarantined
FROM unnest($1::smallint[], $2::text[], $3::text[]) AS asked (shard, account, key)
JOIN shard s ON s.id = asked.shard
LEFT JOIN account a ON a.account = asked.account
LEFT JOIN LATERAL (
    SELECT state, ended_at, fields
    FROM record
    WHERE record.account = asked.account AND record.key = asked.key
    ORDER BY opened DESC
    LIMIT 1
) r ON true
