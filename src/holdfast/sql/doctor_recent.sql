-- Per shard: how many entries the last day had (counted back from the mark by powers of four, the
-- farthest that is within a day), and of the last $1 of them what share opened an idempotency
-- record, and the $2 latest of those.
SELECT
    day.entries,
    recent.records::float8 / greatest(recent.entries, 1) AS share,
    recent.accounts,
    recent.keys
FROM shard
CROSS JOIN LATERAL (
    SELECT
        CASE
            WHEN seq = 1 THEN shard.mark
            ELSE (shard.mark - seq)
                / greatest(extract(epoch FROM clock_timestamp() - at) / 86400, 0.000001)
        END::float8 AS entries
    FROM journal
    WHERE journal.shard = shard.id
        AND seq = ANY (
            SELECT greatest(shard.mark - (4 ^ power)::bigint, 1)
            FROM generate_series(0, 16) AS power
        )
        AND at > clock_timestamp() - interval '1 day'
    ORDER BY seq
    LIMIT 1
) day
CROSS JOIN LATERAL (
    SELECT
        count(*) AS entries,
        count(*) FILTER (WHERE opens) AS records,
        (array_agg(account ORDER BY seq DESC) FILTER (WHERE opens))[:$2::integer] AS accounts,
        (array_agg(key ORDER BY seq DESC) FILTER (WHERE opens))[:$2::integer] AS keys
    FROM (
        SELECT
            seq,
            account,
            key,
            type IN ('reserve', 'charge', 'grant', 'adjust', 'refund') AND key IS NOT NULL AS opens
        FROM journal
        WHERE journal.shard = shard.id AND seq > shard.mark - $1::bigint
    ) last
) recent
