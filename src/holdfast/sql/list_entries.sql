-- A page of an account's journal by version, after version $2.
SELECT
    version,
    seq,
    type,
    hold,
    key,
    member,
    amount,
    available,
    held,
    (extract(epoch FROM at) * 1000)::bigint AS at_ms,
    (extract(epoch FROM settled_at) * 1000)::bigint AS settled_ms,
    entry
FROM journal
WHERE account = $1 AND version > $2
ORDER BY version
LIMIT $3
