-- What hold or charge $2 of an account ($1) could not take when it was last used, how much of it
-- was collected since, and in how many parts ($3 at most).
SELECT r.opened, r.uncollected, paid.collected, paid.parts
FROM record r
CROSS JOIN LATERAL (
    SELECT coalesce(sum(c.amount), 0)::bigint AS collected, count(c.key) AS parts
    FROM generate_series(1, $3::integer) AS part
    JOIN record c
        ON c.account = r.account
        AND c.kind = 'charge'
        AND c.key = 'collect:' || left(
            encode(sha256(convert_to(r.key || ':' || r.opened || ':' || part, 'UTF8')), 'hex'), 40)
) paid
WHERE r.account = $1 AND r.key = $2 AND r.uncollected > 0
ORDER BY r.opened DESC
LIMIT 1
