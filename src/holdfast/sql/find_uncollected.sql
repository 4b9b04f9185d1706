-- What hold or charge $2 of an account ($1) could not take, how much of it was collected since, and
-- in how many parts ($3 at most). `again`: the part that the call with key $4 collected before, its
-- amount, and whether that was within $5 milliseconds. Of a key that was used again: the use that
-- this call was about, else the last of which something is left, else the last.
SELECT r.opened, r.uncollected, paid.*
FROM record r
CROSS JOIN LATERAL (
    SELECT coalesce(sum(c.amount), 0)::bigint AS collected, count(c.key) AS parts,
        min(part) FILTER (WHERE told.call = $4) AS again,
        min(c.amount) FILTER (WHERE told.call = $4) AS again_amount,
        bool_and(c.made_at > clock_timestamp() - make_interval(secs => $5::bigint / 1000.0))
            FILTER (WHERE told.call = $4) AS again_recent
    FROM generate_series(1, $3::integer) AS part
    JOIN record c
        ON c.account = r.account
        AND c.kind = 'charge'
        AND c.key = 'collect:' || left(
            encode(sha256(convert_to(r.key || ':' || r.opened || ':' || part, 'UTF8')), 'hex'), 40)
    CROSS JOIN LATERAL (
        SELECT (c.fields ->> 'metadata')::jsonb ->> 'call' AS call
    ) told
) paid
WHERE r.account = $1 AND r.key = $2 AND r.uncollected > 0
ORDER BY (paid.again IS NOT NULL) DESC,
    (paid.collected < r.uncollected AND paid.parts < $3::integer) DESC, r.opened DESC
LIMIT 1
