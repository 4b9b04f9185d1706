-- A page of the audit, newest first: of one account ($1), of one actor ($2), since a time ($3),
-- each if it is given; before the row of time $4 and id $5, at most $6.
SELECT
    id,
    (extract(epoch FROM at) * 1000000)::bigint AS at_us,
    actor,
    action,
    subject,
    account,
    key,
    address,
    request_id,
    before,
    after
FROM audit
WHERE ($1::text IS NULL OR account = $1)
    AND ($2::text IS NULL OR actor = $2)
    AND ($3::timestamptz IS NULL OR at >= $3)
    AND ($4::timestamptz IS NULL OR (at, id) < ($4, $5::bigint))
ORDER BY at DESC, id DESC
LIMIT $6
