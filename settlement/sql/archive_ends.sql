-- Per shard, where its journal begins (the last archived entry and its chain) and its last entry of
-- a month (from $1 to $2), and whether that, behind which none was settled before, was settled less
-- than $3 seconds ago; none: it has none.
SELECT s.id AS shard, coalesce(o.seq, 0) AS seq, coalesce(o.chain, '') AS chain, last.seq AS last,
       last.settled_at > clock_timestamp() - make_interval(secs => $3::float8) AS fresh
FROM shard AS s
LEFT JOIN LATERAL (
    SELECT seq, chain FROM shard_opening WHERE shard = s.id ORDER BY month DESC LIMIT 1
) AS o ON true
LEFT JOIN LATERAL (
    SELECT seq, settled_at FROM journal WHERE shard = s.id AND at >= $1 AND at < $2
    ORDER BY seq DESC LIMIT 1
) AS last ON true
ORDER BY s.id
