-- A page of what was done and not paid, and is not collected by now: of all accounts, or one ($1),
-- after account $2, key $3 and version $4. Collected is what the charges took whose keys derive
-- from the record (debts.py): one key after the other, $6 at most.
SELECT
    r.account,
    r.key,
    r.opened,
    r.kind,
    r.member,
    r.uncollected,
    paid.collected,
    (extract(epoch FROM coalesce(r.ended_at, r.made_at)) * 1000)::bigint AS at_ms
FROM record r
CROSS JOIN LATERAL (
    SELECT coalesce(sum(c.amount), 0)::bigint AS collected
    FROM generate_series(1, $6::integer) AS part
    JOIN record c
        ON c.account = r.account
        AND c.kind = 'charge'
        AND c.key = 'collect:' || left(
            encode(sha256(convert_to(r.key || ':' || r.opened || ':' || part, 'UTF8')), 'hex'), 40)
) paid
WHERE r.uncollected > 0
    AND ($1::text IS NULL OR r.account = $1)
    AND (r.account, r.key, r.opened) > ($2, $3, $4)
    AND paid.collected < r.uncollected
ORDER BY r.account, r.key, r.opened
LIMIT $5
