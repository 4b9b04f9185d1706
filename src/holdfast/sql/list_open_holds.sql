-- As list_holds, of state 'held' alone: through the index of open holds, past those that have
-- ended.
SELECT
    r.key,
    r.opened,
    r.shard,
    r.member,
    r.state,
    r.amount,
    r.committed,
    r.remaining,
    r.uncollected,
    (r.fields ->> 'late') = '1' AS late,
    (extract(epoch FROM r.made_at) * 1000)::bigint AS made_ms,
    (extract(epoch FROM r.deadline) * 1000)::bigint AS deadline_ms,
    r.deadline <= clock_timestamp() AS due,
    r.fields ->> 'metadata' AS metadata,
    a.available,
    a.held,
    a.version,
    a.last_seq
FROM account a
JOIN record r ON r.shard = a.shard AND r.account = a.account AND r.state = 'held'
WHERE a.account = $1 AND (r.key, r.opened) > ($2, $3)
ORDER BY r.key, r.opened
LIMIT $4
