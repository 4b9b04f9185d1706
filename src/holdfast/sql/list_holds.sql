-- A page of an account's holds by id and opening version, of state $4 where that is set.
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
    r.state = 'held' AND r.deadline <= clock_timestamp() AS due,
    r.fields ->> 'metadata' AS metadata,
    a.available,
    a.held,
    a.version,
    a.last_seq
FROM record r
JOIN account a ON a.account = r.account
WHERE r.account = $1 AND r.kind = 'hold' AND (r.key, r.opened) > ($2, $3)
    AND ($4::text IS NULL OR r.state = $4)
ORDER BY r.key, r.opened
LIMIT $5
